"""The objectives of adversarial training against the papers' formulas, and what each buys on digits."""

import copy
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, kl_div

from groundwire.export.attacks import Threat, pgd
from groundwire.export.errors import RecipeError
from groundwire.export.objectives import OBJECTIVES, freelb_backward, trades_backward
from groundwire.export.settings import recipe_from_table
from groundwire.export.train import Adversary, Schedule, TensorBatches, TensorTask, fit

EXAMPLES = Path(__file__).parents[2] / "examples"


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))


def data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(6)
    x = torch.randn(96, 6)
    return x, x[:, :3].argmax(dim=1)


def assert_same_gradients(one: nn.Module, other: nn.Module) -> None:
    for mine, expected in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.allclose(mine.grad, expected.grad, atol=1e-6)


def test_trades_is_the_clean_loss_and_the_divergence_from_the_clean_output():
    model, (x, y) = network(), data()
    reference, threat, weight = copy.deepcopy(model), Threat(0.3, steps=3), 6 / 7
    torch.manual_seed(9)
    clean, hard = trades_backward(TensorTask(model), (x, y), threat, weight)

    torch.manual_seed(9)
    delta = threat.start(x)
    p = reference(x).detach().softmax(dim=1)
    for _ in range(3):
        delta.requires_grad_(True)
        q = reference(x + delta).log_softmax(dim=1)
        (gradient,) = torch.autograd.grad(kl_div(q, p, reduction="sum"), delta)
        delta = threat.move(x, delta.detach(), gradient)
    divergence = kl_div(reference(x + delta).log_softmax(dim=1), reference(x).softmax(dim=1), reduction="batchmean")
    expected = cross_entropy(reference(x), y)
    ((1 - weight) * expected + weight * divergence).backward()
    assert (clean, hard) == pytest.approx((float(expected.detach()), float(divergence.detach())), rel=1e-4)
    assert hard > 0.001
    assert_same_gradients(model, reference)
    with pytest.raises(ValueError, match="weight below 1"):
        trades_backward(TensorTask(model), (x, y), threat, 1.0)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_freelb_averages_the_loss_over_the_steps_of_the_ascent(weight):
    model, (x, y) = network(), data()
    reference, threat = copy.deepcopy(model), Threat(0.3, "l2", steps=3)
    clean, hard = freelb_backward(TensorTask(model), (x, y), threat, weight)

    delta, losses = torch.zeros_like(x), []
    for _ in range(4):
        at = delta.clone().requires_grad_(True)
        losses.append(cross_entropy(reference(x + at), y))
        (gradient,) = torch.autograd.grad(losses[-1], at, retain_graph=True)
        delta = threat.move(x, delta, gradient)
    ((1 - weight) * losses[0] + weight * sum(losses[1:]) / 3).backward()
    assert clean == pytest.approx(float(losses[0].detach()), rel=1e-5)
    assert hard == pytest.approx(float(sum(losses[1:]).detach() / 3), rel=1e-5)
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_each_objective_hardens_a_digits_model(method):
    train_x, test_x, train_y, test_y = runpy.run_path(str(EXAMPLES / "digits.py"))["digits"]()
    bounds = (0.0, 1.0)

    def robust(adversary: Adversary | None) -> tuple[float, float]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        batches = TensorBatches(train_x, train_y, 64, seed=0)
        fit(
            TensorTask(model),
            batches,
            torch.optim.AdamW(model.parameters(), lr=4e-3),
            Schedule(10),
            adversary=adversary,
        )
        moved = pgd(model, test_x, test_y, Threat(0.1, steps=20, bounds=bounds))
        return tuple(float((model(p).argmax(dim=1) == test_y).float().mean()) for p in (test_x, moved))

    plain = robust(None)
    hardened = robust(Adversary(Threat(0.1, steps=3, bounds=bounds), weight=0.8, method=method))
    assert hardened[0] > plain[0] - 0.03
    assert hardened[1] > plain[1] + 0.15


def test_a_recipe_chooses_the_method_and_refuses_what_can_not_be():
    table = {"name": "x", "data": {"train": "a", "test": "b"}, "encoder": {"name": "e"}}

    def read(**adversary: object):
        return recipe_from_table(table | {"train": {"adversary": adversary}}, "", Path(), "here").train.adversary

    assert read().method == "pgd"
    assert read(method="freelb", epsilon=0.1).method == "freelb"
    with pytest.raises(RecipeError, match="method must be one of pgd, trades, freelb"):
        read(method="magic")
    with pytest.raises(RecipeError, match="below 1 for trades"):
        read(method="trades", weight=1.0)
