"""Attention as torch's two exporters write it: two of four heads dead, the others stay."""

from __future__ import annotations

import warnings
from typing import Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphopt import optimize
from graphopt.facts.stats import stats
from graphopt.torch_export import export

E, H, D = 24, 4, 6
DEAD = (1, 3)
ROWS = [head * D + place for head in DEAD for place in range(D)]
HEAD = E * D + D
SPARE = 16
"""Numbers that an exporter adds: scales, masks."""


class Separate(nn.Module):
    """Queries, keys and values from layers of their own; keys and values of fewer heads are repeated."""

    def __init__(self, shared: int = H, form: str = "fused") -> None:
        super().__init__()
        self.shared, self.form = shared, form
        self.q, self.k, self.v = nn.Linear(E, E), nn.Linear(E, shared * D), nn.Linear(E, shared * D)
        self.o = nn.Linear(E, E)

    def split(self, x: Tensor, heads: int) -> Tensor:
        """(B, T, heads*D) to (B, heads, T, D)."""
        return x.view(x.shape[0], x.shape[1], heads, D).transpose(1, 2)

    def repeat(self, x: Tensor) -> Tensor:
        """Every head as often as queries share it."""
        b, heads, t, d = x.shape
        return x if heads == H else x[:, :, None].expand(b, heads, H // heads, t, d).reshape(b, H, t, d)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to the same."""
        b, t, _ = x.shape
        q = self.split(self.q(x), H)
        k, v = (self.repeat(self.split(part(x), self.shared)) for part in (self.k, self.v))
        if self.form == "batched":
            q, k, v = (part.reshape(b * H, t, D) for part in (q, k, v))
            y = (torch.softmax(torch.bmm(q, k.transpose(1, 2)) * 0.4, -1) @ v).view(b, H, t, D)
        else:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.form == "causal")
        return self.o(y.transpose(1, 2).reshape(b, t, E))


class Joint(nn.Module):
    """One layer makes all three."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(E, 3 * E), nn.Linear(E, E)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to the same."""
        b, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, t, 3, H, D).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, E))


class OfTorch(nn.Module):
    """``nn.MultiheadAttention``; with weights it multiplies batches of heads."""

    def __init__(self, weights: bool = False) -> None:
        super().__init__()
        self.a, self.weights = nn.MultiheadAttention(E, H, batch_first=True), weights

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, E) to the same."""
        return self.a(x, x, x, need_weights=self.weights)[0]


FORMS = {
    "scaled_dot_product_attention": Separate,
    "causal": lambda: Separate(form="causal"),
    "bmm": lambda: Separate(form="batched"),
    "shared keys": lambda: Separate(shared=2),
    "one product": Joint,
    "MultiheadAttention": OfTorch,
}


def dead_heads(module: nn.Module, where: str) -> nn.Module:
    """Random weights, of which those of the dead heads are zero, in front of attention or behind it."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=torch.Generator().manual_seed(parameter.numel()))
        if isinstance(module, OfTorch):
            values, bias = module.a.in_proj_weight[2 * E :], module.a.in_proj_bias[2 * E :]
            output: nn.Linear = module.a.out_proj
        else:
            layer = module.qkv if isinstance(module, Joint) else module.v
            assert isinstance(layer, nn.Linear) and isinstance(module.o, nn.Linear)
            values, bias, output = layer.weight[-E:], layer.bias[-E:], module.o
        if where == "values":
            values[ROWS], bias[ROWS] = 0, 0
        else:
            output.weight[:, ROWS] = 0
    return module.eval()


@pytest.mark.parametrize("exporter", ["dynamo", pytest.param("torchscript", marks=pytest.mark.long)])
@pytest.mark.parametrize("where", ["values", "columns"])
@pytest.mark.parametrize("form", FORMS)
def test_dead_heads_go(form: str, where: str, exporter: Literal["dynamo", "torchscript"]) -> None:
    if (form, where) == ("shared keys", "values"):
        pytest.skip("a value head serves two query heads")
    module = dead_heads(FORMS[form](), where)
    axes = {0: "batch", 1: "time"} if exporter == "dynamo" else {0: "batch"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = export(module, (torch.randn(2, 5, E),), dynamic_shapes=(axes,), exporter=exporter, verify=False)
    result = optimize(model, plan="smallest")
    left = H - len(DEAD)
    assert stats(result.model).parameters <= 3 * left * HEAD + left * D * E + E + SPARE
