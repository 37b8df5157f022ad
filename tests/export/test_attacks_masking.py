"""The masking checks: an honest model passes all of them, models that hide their gradients fail."""

import pytest
import torch
from test_attacks_oracles import digits, train  # noqa: F401 - a fixture
from torch import Tensor, nn

from groundwire.export.attacks import Threat, apgd, pgd
from groundwire.export.attacks.search import noise, random_search
from groundwire.export.masking import Check, masking_checks

THREAT = Threat(0.1, steps=10, bounds=(0.0, 1.0))


@pytest.fixture(scope="module")
def setup(digits) -> tuple[nn.Module, nn.Module, Tensor, Tensor]:  # noqa: F811
    """A model, another of the same task, and 100 images with labels."""
    x, y = digits
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        models.append(train(model, x[300:], y[300:], 8))
    return models[0], models[1], x[:100], y[:100]


def run(logits, setup, threat: Threat = THREAT) -> dict[str, Check]:
    _, surrogate, x, y = setup
    checks = masking_checks(logits, x, y, threat, surrogate=surrogate, queries=150)
    return {check.name: check for check in checks}


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_honest_model_passes_every_check(setup, norm):
    checks = run(setup[0], setup, Threat({"linf": 0.1, "l2": 0.5}[norm], norm, steps=10, bounds=(0.0, 1.0)))
    assert [c.name for c in checks.values() if not c.passed] == []
    assert len(checks) == 8
    large = checks["a large radius leaves nothing"].numbers
    assert max(large.values()) > 0.9
    assert min(large.values()) <= 0.01


def test_an_honest_model_without_bounds_passes_too(setup):
    assert [c for c in run(setup[0], setup, Threat(0.1, steps=10)).values() if not c.passed] == []


def test_logits_scaled_up_fake_robustness_and_the_temperature_sweep_says_so(setup):
    model, _, x, y = setup

    def masked(point: Tensor) -> Tensor:
        return 1e4 * model(point)

    torch.manual_seed(0)
    faked = (model(pgd(masked, x, y, THREAT)).argmax(dim=1) == y).float().mean()
    honest = (model(pgd(model, x, y, THREAT)).argmax(dim=1) == y).float().mean()
    assert faked > honest + 0.15
    checks = run(masked, setup)
    failed = {name for name, check in checks.items() if not check.passed}
    assert {"no temperature makes the attack stronger", "gradients are there"} <= failed


@pytest.mark.parametrize("scale", [1e-20, 1e-38])
def test_logits_divided_by_a_huge_temperature_fake_robustness_and_the_sweep_says_so(setup, scale):
    model, _, x, y = setup

    def masked(point: Tensor) -> Tensor:
        return model(point) * scale

    def attacked(attack, logits) -> float:
        torch.manual_seed(0)
        return float((model(attack(logits)).argmax(dim=1) == y).float().mean())

    honest = attacked(lambda f: pgd(f, x, y, THREAT), model)
    assert attacked(lambda f: pgd(f, x, y, THREAT), masked) > honest + 0.08
    assert not run(masked, setup)["no temperature makes the attack stronger"].passed
    if scale > 1e-30:  # the DLR loss is not fooled
        assert attacked(lambda f: apgd(f, x, y, THREAT, loss="dlr"), masked) <= honest + 0.02


def test_a_quantised_input_has_no_gradient_and_fails(setup):
    model = setup[0]
    checks = run(lambda p: model((p * 4).round() / 4), setup)
    failed = {name for name, check in checks.items() if not check.passed}
    assert {
        "white-box at least as strong as black-box",
        "a large radius leaves nothing",
        "gradients are there",
    } <= failed


def test_the_checks_leave_the_random_numbers_alone_and_repeat(setup):
    state = torch.get_rng_state()
    one, other = run(setup[0], setup), run(setup[0], setup)
    assert one == other
    assert torch.equal(state, torch.get_rng_state())


def test_random_search_needs_no_gradient_and_beats_noise(setup):
    model, _, x, y = setup
    torch.manual_seed(0)

    def accuracy(moved: Tensor) -> float:
        assert (moved - x).abs().max() <= 0.1 + 1e-6
        return float((model(moved).argmax(dim=1) == y).float().mean())

    searched = accuracy(random_search(lambda p: model(p).detach(), x, y, THREAT, 150))
    assert searched < accuracy(noise(model, x, y, THREAT, 150)) - 0.05
    few = accuracy(random_search(model, x, y, THREAT, 20))
    assert searched <= few
