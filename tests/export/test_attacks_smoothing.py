"""Randomised smoothing against the closed form of a linear model, and the binomial bound against its definition."""

import pytest
import torch
from scipy.stats import binom
from torch import nn

from groundwire.export.attacks import Threat, pgd
from groundwire.export.smoothing import ABSTAIN, certify_smoothed, clopper_pearson_lower


@pytest.mark.parametrize(("hits", "n"), [(1, 10), (73, 100), (100, 100), (999, 1000)])
def test_the_bound_is_the_share_at_which_so_many_hits_have_probability_alpha(hits, n):
    low = clopper_pearson_lower(hits, n, 0.01)
    assert binom.sf(hits - 1, n, low) == pytest.approx(0.01, rel=1e-6)
    assert clopper_pearson_lower(0, n, 0.01) == 0.0


def linear() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(12, 2)
    x = torch.randn(200, 12)
    weights = model.weight[1] - model.weight[0]
    return model, x, ((model(x)[:, 1] - model(x)[:, 0]).abs() / weights.norm()).detach()


def test_radii_come_up_to_the_exact_distance_of_a_linear_model_and_never_beyond():
    model, x, distance = linear()
    sigma = 0.5
    # Smoothing a half-space changes nothing: the exact radius is the distance to the plane.
    found = certify_smoothed(model, x, sigma, samples=2000, alpha=0.001)
    assert (found.radii <= distance + 1e-4).all()
    sure = found.labels != ABSTAIN
    assert (found.labels[sure] == model(x).argmax(dim=1)[sure]).all()
    assert sure[distance > 0.1].all()
    near = sure & (distance < 1.2 * sigma)  # farther out, 2000 samples can't show more
    assert near.sum() > 30
    assert ((distance - found.radii)[near] < 0.25 * sigma).all()
    assert (found.radii[~sure] == 0).all()
    truth = model(x).argmax(dim=1)
    shares = [found.accuracy(truth, r) for r in (0.0, 0.2, 0.5, 1.0, 9.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] == 0.0


def test_no_attack_breaks_a_certified_radius():
    model, x, _ = linear()
    found = certify_smoothed(model, x, 0.5, samples=500)
    y = model(x).argmax(dim=1)
    for radius in (0.2, 0.5):
        held = found.radii >= radius
        assert held.sum() > 20
        moved = pgd(model, x[held], y[held], Threat(radius, "l2", steps=20))
        assert (model(moved).argmax(dim=1) == y[held]).all()


def test_more_noise_than_signal_abstains_and_masks_are_honoured():
    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    x = 0.01 * torch.randn(40, 6)
    with torch.no_grad():
        model.bias.zero_()
    assert (certify_smoothed(model, x, 5.0, samples=200).labels == ABSTAIN).float().mean() > 0.9
    seen: list[torch.Tensor] = []
    mask = torch.tensor([1.0, 1, 1, 0, 0, 0])

    def looking(point: torch.Tensor) -> torch.Tensor:
        seen.append(point)
        return model(point)

    certify_smoothed(looking, x, 1.0, choosing=2, samples=3, mask=mask)
    assert len(seen) == 5
    assert all(torch.equal(point[:, 3:], x[:, 3:]) and not torch.equal(point, x) for point in seen)


@pytest.mark.parametrize("wrong", [{"sigma": 0.0}, {"alpha": 0.0}, {"samples": 0}])
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"sigma|samples"):
        certify_smoothed(nn.Linear(2, 2), torch.zeros(1, 2), **({"sigma": 1.0} | wrong))
