"""Batched per-sample gradient norms against autograd, one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from prunebench.recommenders.gradients import gradient_norms, sample_gradients


class Network(nn.Module):
    """Linear layers on tokens and on pooled states, one of them used twice, one without bias."""

    def __init__(self, width: int, wide: int) -> None:
        super().__init__()
        self.first, self.shared = nn.Linear(width, wide), nn.Linear(wide, wide, bias=False)
        self.last = nn.Linear(wide, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.shared(torch.tanh(self.shared(torch.relu(self.first(x))))))
        return self.last(hidden.mean(1))


@pytest.mark.parametrize(("width", "wide", "tokens"), [(4, 5, 30), (40, 50, 3), (6, 7, 1)])
@pytest.mark.parametrize("names", [("first", "shared", "last"), ("shared",), ("last",)])
def test_equals_one_sample_at_a_time(width: int, wide: int, tokens: int, names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = Network(width, wide)
    x, y = torch.randn(6, tokens, width), torch.randint(0, 3, (6,))
    layers = [getattr(model, name) for name in names]
    norms = gradient_norms(model, layers, lambda: nn.functional.cross_entropy(model(x), y, reduction="none"))
    wanted = [parameter for layer in layers for parameter in layer.parameters()]
    for row in range(6):
        loss = nn.functional.cross_entropy(model(x[row : row + 1]), y[row : row + 1])
        parts = torch.autograd.grad(loss, wanted)
        assert float(norms[row]) == pytest.approx(float(sum(g.square().sum() for g in parts).sqrt()), rel=1e-4)


def test_sample_gradients_equal_one_sample_at_a_time() -> None:
    torch.manual_seed(0)
    model, idle = Network(4, 5), nn.Linear(4, 4)
    x = torch.randn(6, 3, 4)
    gradients = sample_gradients(model, [model.first, model.shared, idle], lambda: model(x).square().sum(1))
    assert not gradients[idle].any()
    for row in range(6):
        loss = model(x[row : row + 1]).square().sum()
        parts = torch.autograd.grad(loss, [model.first.weight, model.shared.weight])
        for layer, part in zip((model.first, model.shared), parts, strict=True):
            torch.testing.assert_close(gradients[layer][row], part)


def test_a_use_that_does_not_reach_the_loss_leaves_the_others() -> None:
    torch.manual_seed(0)
    model = Network(4, 5)
    x = torch.randn(2, 3, 5)

    def losses() -> torch.Tensor:
        model.shared(x)
        return model.shared(2 * x).sum((1, 2))

    once = gradient_norms(model, [model.shared], lambda: model.shared(2 * x).sum((1, 2)))
    assert once.all()
    torch.testing.assert_close(gradient_norms(model, [model.shared], losses), once)


def test_parameters_are_left_alone() -> None:
    torch.manual_seed(0)
    model = Network(4, 5)
    model.first.weight.requires_grad_(False)
    asked = [parameter.requires_grad for parameter in model.parameters()]
    x = torch.randn(2, 3, 4)
    before = model(x)
    with pytest.raises(ZeroDivisionError):
        gradient_norms(model, [model.last], lambda: model(x)[:, 0] / (1 // 0))
    gradient_norms(model, [model.last], lambda: model(x)[:, 0])
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    torch.testing.assert_close(model(x), before)


def test_a_layer_that_does_not_reach_the_loss_adds_nothing() -> None:
    torch.manual_seed(0)
    model = Network(4, 5)
    idle = nn.Linear(4, 4)
    x = torch.randn(2, 3, 4)
    alone = gradient_norms(model, [model.last], lambda: model(x)[:, 0])
    torch.testing.assert_close(gradient_norms(model, [model.last, idle], lambda: model(x)[:, 0]), alone)
