"""Training: the adversarial objective, resuming, and what hardening buys on digits."""

import copy
import runpy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from groundwire.export.attacks import Threat
from groundwire.export.errors import StageError
from groundwire.export.objectives import adversarial_backward
from groundwire.export.train import (
    Adversary,
    Checkpoint,
    Schedule,
    TensorBatches,
    TensorTask,
    fit,
)  # fmt: skip

EXAMPLES = Path(__file__).parents[2] / "examples"


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))


def data(n: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(6)
    x = torch.randn(n, 6)
    return x, x[:, :3].argmax(dim=1)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_one_step_gives_the_gradient_of_the_mixed_loss_at_clean_and_fgsm_points(weight):
    model, (x, y) = network(), data()
    reference = copy.deepcopy(model)
    clean, hard = adversarial_backward(TensorTask(model), (x, y), Threat(0.2, steps=1, random_start=False), weight)

    point = x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(cross_entropy(reference(point), y), point)
    clean_loss, hard_loss = cross_entropy(reference(x), y), cross_entropy(reference(x + 0.2 * gradient.sign()), y)
    ((1 - weight) * clean_loss + weight * hard_loss).backward()
    assert (clean, hard) == pytest.approx((float(clean_loss.detach()), float(hard_loss.detach())), rel=1e-5)
    for mine, expected in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.allclose(mine.grad, expected.grad, atol=1e-6)


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path):
    x, y = data()
    adversary = Adversary(Threat(0.1, steps=2), weight=0.5, first_epoch=1.5)

    def train(model: nn.Module, checkpoint: Checkpoint | None, fail_after: int | None) -> nn.Module:
        class Failing(TensorTask):
            calls = 0

            def loss(self, point, batch):
                Failing.calls += 1
                if fail_after is not None and Failing.calls > fail_after:
                    raise KeyboardInterrupt
                return super().loss(point, batch)

        fit(Failing(model), TensorBatches(x, y, 16, seed=1), torch.optim.AdamW(model.parameters(), lr=0.01),
            Schedule(3), adversary=adversary, checkpoint=checkpoint)  # fmt: skip
        return model

    whole = train(network(), None, None)
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(network(), checkpoint, 20)
    assert checkpoint.load() is not None
    resumed = train(network(), checkpoint, None)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_loss_that_is_not_a_number_stops_training(tmp_path):
    x, y = data()
    x[3, 2] = float("nan")
    model = network()
    with pytest.raises(StageError, match="not a number"):
        fit(
            TensorTask(model), TensorBatches(x, y, 16, seed=0), torch.optim.SGD(model.parameters(), lr=0.1), Schedule(1)
        )


def test_the_learning_rate_warms_up_and_falls_to_zero():
    schedule = Schedule(epochs=1, warmup=0.1)
    factors = [schedule.factor(step, 100) for step in range(101)]
    assert factors[:10] == pytest.approx([(n + 1) / 10 for n in range(10)])
    assert max(factors) == factors[9] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[100] == 0.0


def test_the_digits_example_gains_robustness_and_keeps_accuracy():
    example = runpy.run_path(str(EXAMPLES / "digits.py"))
    standard = example["train_and_attack"](hardened=False, epochs=15, seed=0)
    hardened = example["train_and_attack"](hardened=True, epochs=15, seed=0)
    assert standard[0] > 0.93
    assert hardened[0] > standard[0] - 0.03
    assert hardened[1] > standard[1] + 0.25
