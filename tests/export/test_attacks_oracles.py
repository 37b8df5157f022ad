"""Our attacks beside those of Foolbox and ART: as strong or stronger on the same models with the same budget."""

from collections.abc import Callable

import foolbox
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from groundwire.export.attacks import Threat, apgd, carlini_wagner, fgsm, pgd, robust_at

POINT = 0.01 + 1e-6  # what robust accuracy may be above the oracle's


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    return torch.tensor(data.images / 16.0, dtype=torch.float32)[order].unsqueeze(1), torch.tensor(data.target)[order]


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["mlp", "cnn"])
def subject(request, digits) -> tuple[nn.Module, Tensor, Tensor]:
    """A trained model with 150 test images [150, 1, 8, 8] and labels."""
    x, y = digits
    torch.manual_seed(0)
    if request.param == "mlp":
        model: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    else:
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
            nn.Linear(144, 10),
        )  # fmt: skip
    return train(model, x[300:], y[300:], 12), x[:150], y[:150]


def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(dim=1) == y).float().mean())


def foolbox_accuracy(attack: foolbox.Attack, model: nn.Module, x: Tensor, y: Tensor, epsilon: float) -> float:
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, _, success = attack(wrapped, x, y, epsilons=epsilon)
    return 1 - float(success.float().mean())


EPSILON = {"linf": 0.07, "l2": 0.5}
Attack = Callable[[nn.Module, Tensor, Tensor, Threat], Tensor]


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_and_fgsm_are_as_strong_as_foolbox(subject, norm):
    model, x, y = subject
    epsilon, steps = EPSILON[norm], 20
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]
    once = {"linf": foolbox.attacks.LinfFastGradientAttack, "l2": foolbox.attacks.L2FastGradientAttack}[norm]
    torch.manual_seed(0)
    threat = Threat(epsilon, norm, steps, bounds=(0.0, 1.0))
    ours = accuracy(model, pgd(model, x, y, threat), y)
    theirs = foolbox_accuracy(kind(rel_stepsize=2.5 / steps, steps=steps), model, x, y, epsilon)
    assert 0.02 < theirs < 0.95
    assert ours <= theirs + POINT
    ours_once = accuracy(model, fgsm(model, x, y, epsilon, norm=norm, bounds=(0.0, 1.0)), y)
    assert ours_once <= foolbox_accuracy(once(), model, x, y, epsilon) + POINT
    assert ours < ours_once


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("loss", ["ce", "dlr"])
def test_apgd_is_as_strong_as_art(subject, norm, loss):
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import PyTorchClassifier

    model, x, y = subject
    steps, restarts, epsilon = 20, 2, EPSILON[norm]
    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
    )  # fmt: skip
    oracle = AutoProjectedGradientDescent(
        wrapped, norm={"linf": np.inf, "l2": 2}[norm], eps=epsilon, eps_step=2 * epsilon, max_iter=steps,
        nb_random_init=restarts, batch_size=150, verbose=False,
        loss_type={"ce": "cross_entropy", "dlr": "difference_logits_ratio"}[loss],
    )  # fmt: skip
    np.random.seed(0)
    found = torch.from_numpy(oracle.generate(x.numpy(), np.eye(10)[y.numpy()]))
    torch.manual_seed(0)
    moved = apgd(model, x, y, Threat(epsilon, norm, steps, restarts=restarts, bounds=(0.0, 1.0)), loss=loss)
    assert accuracy(model, moved, y) <= accuracy(model, found, y) + POINT


def test_carlini_wagner_is_as_strong_as_foolbox(subject):
    model, x, y = subject
    x, y = x[:50], y[:50]
    budget = {"steps": 50, "confidence": 0.0}
    found = carlini_wagner(model, x, y, searches=5, learning_rate=0.02, bounds=(0.0, 1.0), **budget)
    oracle = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=5, stepsize=0.02, initial_const=1e-2, abort_early=False, **budget
    )
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    _, _, theirs = oracle(wrapped, x, y, epsilons=[0.3, 0.5, 0.7, 0.9])
    wrong = model(found).argmax(dim=1) != y
    for epsilon, success in zip([0.3, 0.5, 0.7, 0.9], theirs, strict=True):
        ours = float(robust_at(x, found, wrong, epsilon).float().mean())
        assert ours <= 1 - float(success.float().mean()) + POINT
    assert 0.05 < float(theirs[1].float().mean()) < 1.0
