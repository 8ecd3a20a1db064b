"""Attention with a cache, as torch's two exporters write it: what is in the cache is a promise, what is not may go."""

from __future__ import annotations

import warnings
from typing import Literal

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt import model as models
from graphopt import optimize
from graphopt.facts.stats import stats
from graphopt.torch_export import export
from tests.strategies import check

E, H, D, P, T = 24, 4, 6, 3, 2
HEAD = E * D + D
"""Weights and biases that one head has in a product in front of attention."""
SPARE = 24
"""Numbers that an exporter adds: scales, shapes."""


class Cached(nn.Module):
    """Keys and values are appended to those of earlier tokens, which heads of queries share or not."""

    def __init__(self, shared: int = H, fused: bool = False) -> None:
        super().__init__()
        self.shared, self.fused = shared, fused
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, shared * D), nn.Linear(E, shared * D)
        self.o = nn.Linear(E, E, bias=False)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, heads*D) to (B, heads, T, D)."""
        return x.view(x.shape[0], x.shape[1], -1, D).transpose(1, 2)

    def repeat(self, x: Tensor) -> Tensor:
        """Every head as often as queries share it."""
        b, heads, t, d = x.shape
        return x if heads == H else x[:, :, None].expand(b, heads, H // heads, t, d).reshape(b, H, t, d)

    def forward(self, x: Tensor, past_key: Tensor, past_value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, E) and (B, shared, P, D) twice."""
        key = torch.cat([past_key, self.split(self.k(x))], 2)
        value = torch.cat([past_value, self.split(self.v(x))], 2)
        q, k, v = self.split(self.q(x)), self.repeat(key), self.repeat(value)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(2, 3) * 0.4, -1) @ v
        return self.o(y.transpose(1, 2).reshape(x.shape[0], x.shape[1], E)), key, value


def exported(
    module: Cached, exporter: Literal["dynamo", "torchscript"], unread: list[int], zero: list[int]
) -> onnx.ModelProto:
    """The model of a module; heads that nobody reads, and heads of values that are zero from now on."""

    def rows(heads: list[int]) -> list[int]:
        return [head * D + place for head in heads for place in range(D)]

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
        module.o.weight[:, rows(unread)] = 0
        module.v.weight[rows(zero)], module.v.bias[rows(zero)] = 0, 0
    inputs = (torch.randn(2, T, E), *(torch.randn(2, module.shared, P, D) for _ in range(2)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = export(module.eval(), inputs, dynamic_shapes=({0: "batch"},) * 3, exporter=exporter, verify=False)
    return onnx.load_from_string(models.serialize(found))


@pytest.mark.parametrize("exporter", ["dynamo", pytest.param("torchscript", marks=pytest.mark.long)])
@pytest.mark.parametrize(("shared", "fused"), [(H, False), (2, True), pytest.param(1, False, marks=pytest.mark.long)])
@pytest.mark.parametrize(("unread", "zero"), [([1, 2], []), ([], [0]), ([0, 1], [0])])
def test_a_cache_in_primitive_operators(
    unread: list[int], zero: list[int], shared: int, fused: bool, exporter: Literal["dynamo", "torchscript"]
) -> None:
    """The cache stays; heads of queries go where it is gathered from, otherwise only what is behind attention."""
    model = exported(Cached(shared, fused), exporter, unread, zero)
    expected = check.Expected.of(model, (1, 5))
    result = check.optimized(model, "optimize", plan="smallest")
    expected.compare(models.serialize(result.model), "optimize")
    queries = H - len(unread) if shared < H else H
    least = HEAD * (queries + 2 * shared) + (H - len(unread)) * D * E
    assert least - len(zero) * HEAD <= result.report.after.parameters <= least + SPARE
    again = optimize(result.model, plan="smallest", measure=False)
    assert stats(again.model) == stats(result.model)
