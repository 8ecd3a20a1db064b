"""Forward exactly -1 or +1, backward the basis; the error module, and that it leaves nothing behind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graphopt.train.binary import Course, ErrorModule, Fourier, Sign, StraightThrough, sign, signs

EDGES = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 1.0, -1.0, 3.4e38, -3.4e38, math.inf, -math.inf, math.nan]
SAID = [-1, -1, 1, -1, 1, -1, 1, -1, 1, -1, 1, -1, -1]


def test_forward_is_minus_or_plus_one() -> None:
    """0, -0 and NaN are -1; the smallest number above 0 is +1."""
    assert signs(torch.tensor(EDGES)).tolist() == SAID
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        found = signs(torch.tensor([0.0, -0.0, 0.5, -0.5, math.nan], dtype=dtype))
        assert found.dtype == dtype and found.tolist() == [-1, -1, 1, -1, -1]
    for size in (0, 1, 997):
        t = torch.randn(size, generator=torch.Generator().manual_seed(size)).requires_grad_()
        found = sign(t, Fourier(), 0.5)
        assert found.shape == t.shape and (found.abs() == 1).all() and torch.equal(found, signs(t.detach()))


def test_backward_is_the_basis() -> None:
    t = torch.tensor([*EDGES, 0.3, -0.7]).requires_grad_()
    incoming = torch.arange(len(t)) + 1.0
    for share in (0.0, 0.4, 1.0):
        t.grad = None
        (sign(t, Fourier(), share) * incoming).sum().backward()
        assert t.grad is not None
        assert torch.equal(t.grad, incoming * Fourier().gradient(t.detach(), share))


def test_in_mixed_precision_a_sign_is_a_sign() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        layer = nn.Linear(5, 3)
        found = sign(layer(torch.ones(2, 5)), Fourier(), 0.5)
        found.float().sum().backward()
    assert found.dtype == torch.bfloat16 and (found.abs() == 1).all()
    assert layer.weight.grad is not None and layer.weight.grad.isfinite().all()


@pytest.mark.parametrize(("size", "width"), [(1, 1), (63, 1), (64, 1), (127, 1), (128, 2), (1000, 15)])
def test_the_error_module_is_two_layers_and_a_residual(size: int, width: int) -> None:
    module = ErrorModule(size)
    weights = dict(module.named_parameters())
    assert {name: tuple(one.shape) for name, one in weights.items()} == {
        "first.weight": (width, size),
        "second.weight": (size, width),
    }
    t = torch.randn(7, size)
    first, second = weights["first.weight"].detach(), weights["second.weight"].detach()
    expected = (t @ first.T).relu() @ second.T + 0.1 * torch.sin(t)
    assert torch.allclose(module(t), expected, atol=1e-6)
    with torch.no_grad():
        for one in weights.values():
            one.zero_()
    assert torch.equal(module(t), 0.1 * torch.sin(t))  # the residual alone


def test_the_error_of_an_image_is_that_of_its_places() -> None:
    module, image = ErrorModule(130), torch.randn(2, 130, 3, 1)
    rows = image.movedim(1, -1).reshape(6, 130)
    assert torch.allclose(module(image), module(rows).reshape(2, 3, 1, 130).movedim(-1, 1), atol=1e-6)


def test_gradients_of_the_error_module_are_finite_differences() -> None:
    module = ErrorModule(130).double()
    t = torch.randn(3, 130, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *w: module(x), (t, *module.parameters()))


def run(layer: Sign, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    t = t.clone().requires_grad_()
    found = layer(t)
    (found * torch.arange(t.numel()).reshape(t.shape)).sum().backward()
    assert t.grad is not None
    return found.detach(), t.grad


def test_alpha_0_is_the_module_removed() -> None:
    """Bit by bit, forward and backward; and in eval mode whatever alpha is."""
    t = torch.randn(5, 67)
    bare = run(Sign(Fourier()), t)
    layer = Sign(Fourier(), ErrorModule(67), alpha=0.0)
    assert all(torch.equal(*pair) for pair in zip(run(layer, t), bare, strict=True))
    layer.alpha = 0.1
    assert not any(torch.equal(*pair) for pair in zip(run(layer, t), bare, strict=True))
    assert all(torch.equal(*pair) for pair in zip(run(layer.eval(), t), bare, strict=True))


def test_with_the_error_it_is_a_sum_and_so_is_its_gradient() -> None:
    t = torch.randn(5, 67)
    error = ErrorModule(67)
    layer = Sign(Fourier(), error, alpha=0.1)
    found, gradient = run(layer, t)
    x = t.clone().requires_grad_()
    (0.1 * error(x) * torch.arange(t.numel()).reshape(t.shape)).sum().backward()
    assert x.grad is not None
    assert torch.equal(found, signs(t) + 0.1 * error(t).detach())
    expected = torch.arange(t.numel()).reshape(t.shape) * Fourier().gradient(t, 0.0) + x.grad
    assert torch.allclose(gradient, expected, rtol=1e-6)


def test_the_course_lets_alpha_fade_by_a_cosine() -> None:
    net = nn.Sequential(Sign(Fourier(), ErrorModule(3), 0.1), nn.ReLU(), Sign(StraightThrough()))
    course = Course(net, 0.1)
    seen = []
    for share in (0.0, 0.25, 0.5, 1.0):
        course.at(share)
        first, last = net[0], net[2]
        assert isinstance(first, Sign) and isinstance(last, Sign)
        assert first.share == last.share == share and first.alpha == last.alpha
        seen.append(first.alpha)
    assert seen == pytest.approx([0.1, 0.05 * (1 + math.sqrt(0.5)), 0.05, 0.0], abs=1e-17)
    assert seen[-1] == 0
