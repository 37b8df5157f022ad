"""Attacks against models whose worst case is known in closed form, and against each other."""

import pytest
import torch
from torch import nn

from groundwire.export.attacks import L2, NORMS, Linf, Threat, apgd, carlini_wagner, fgsm, pgd
from groundwire.export.attacks.apgd import checkpoints
from groundwire.export.attacks.losses import dlr


@pytest.fixture
def linear() -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Linear(12, 2)
    x = torch.randn(200, 12)
    return model, x, model(x).argmax(dim=1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_pgd_reaches_the_exact_worst_case_of_a_linear_model(linear, norm, dual):
    model, x, y = linear
    weights = model.weight[1] - model.weight[0]
    margin = (model(x)[:, 1] - model(x)[:, 0]).abs()
    epsilon = 0.4
    distance = margin / weights.norm(p=dual)  # the dual norm gives the exact distance to the boundary
    assert 0.1 < (distance < epsilon).float().mean() < 0.9
    fell = model(pgd(model, x, y, Threat(epsilon, norm, steps=50))).argmax(dim=1) != y
    assert not fell[distance > epsilon].any()
    assert fell[distance < 0.97 * epsilon].all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("bounds", [None, (-0.5, 0.5)])
def test_perturbations_stay_inside_ball_bounds_and_mask(linear, norm, bounds):
    model, x, y = linear
    x = x.clamp(-0.5, 0.5)
    mask = torch.ones_like(x)
    mask[:, :5] = 0
    delta = pgd(model, x, y, Threat(0.3, norm, steps=7, restarts=2, bounds=bounds), mask=mask) - x
    length = delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)
    assert length.max() <= 0.3 + 1e-5
    assert length.max() > 0.1
    assert delta[:, :5].abs().max() == 0
    if bounds:
        assert (x + delta).abs().max() <= 0.5 + 1e-6


def test_more_steps_and_restarts_are_never_weaker():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3))
    x, y = torch.randn(300, 8), torch.randint(0, 3, (300,))
    right = []
    for steps, restarts in ((1, 1), (5, 1), (20, 1), (20, 4)):
        torch.manual_seed(2)
        threat = Threat(0.3, steps=steps, step_size=0.08, restarts=restarts, random_start=False)
        right.append(int((model(pgd(model, x, y, threat)).argmax(dim=1) == y).sum()))
    assert right == sorted(right, reverse=True)
    assert right[0] > right[-1]


def test_a_large_radius_leaves_nothing_and_zero_leaves_everything(linear):
    model, x, y = linear
    assert (model(pgd(model, x, y, Threat(100.0, steps=10))).argmax(dim=1) == y).sum() == 0
    assert torch.equal(pgd(model, x, y, Threat(0.0, steps=3)), x)


def test_fgsm_moves_every_coordinate_by_epsilon_along_the_sign_of_the_gradient(linear):
    model, x, y = linear
    x.requires_grad_(True)
    nn.functional.cross_entropy(model(x), y).backward()
    assert x.grad is not None
    moved = fgsm(model, x.detach(), y, 0.25)
    assert torch.allclose(moved - x.detach(), 0.25 * x.grad.sign(), atol=1e-6)


def test_attacking_leaves_the_parameters_without_gradients(linear):
    model, x, y = linear
    pgd(model, x, y, Threat(0.1, steps=3))
    assert all(p.grad is None for p in model.parameters())


def test_samples_fill_the_ball():
    torch.manual_seed(0)
    like = torch.zeros(4000, 3)
    cube = Linf().sample(like, 2.0)
    assert 1.95 < cube.max() <= 2.0
    radius = L2().sample(like, 2.0).norm(dim=1)
    assert radius.max() <= 2.0 + 1e-5
    assert (
        abs(float((radius < 1.0).float().mean()) - 1 / 8) < 0.02
    )  # a ball of half the radius has an eighth of the volume


@pytest.mark.parametrize("wrong", [{"norm": "l7"}, {"epsilon": -1.0}, {"steps": 0}, {"restarts": 0}])
def test_a_threat_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match=r"norm|epsilon"):
        Threat(**({"epsilon": 0.1} | wrong))


def test_the_table_of_norms_names_each_by_its_own_name():
    assert {name: norm.name for name, norm in NORMS.items()} == {"linf": "linf", "l2": "l2"}


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_apgd_reaches_the_exact_worst_case_of_a_linear_model(linear, norm, dual):
    model, x, y = linear
    distance = (model(x)[:, 1] - model(x)[:, 0]).abs() / (model.weight[1] - model.weight[0]).norm(p=dual)
    fell = model(apgd(model, x, y, Threat(0.4, norm, steps=30))).argmax(dim=1) != y
    assert not fell[distance > 0.4].any()
    assert fell[distance < 0.97 * 0.4].all()


@pytest.mark.parametrize("bounds", [None, (-4.0, 4.0)])
def test_carlini_wagner_finds_the_nearest_point_of_a_linear_model(linear, bounds):
    model, x, y = linear
    x = x.clamp(-3, 3)[:40]
    y = model(x).argmax(dim=1)
    with torch.no_grad():
        distance = (model(x)[:, 1] - model(x)[:, 0]).abs() / (model.weight[1] - model.weight[0]).norm()
    found = carlini_wagner(model, x, y, bounds=bounds, steps=60, searches=6, learning_rate=0.03)
    fooled = model(found).argmax(dim=1) != y
    assert fooled.float().mean() > 0.9
    length = (found - x).norm(dim=1)[fooled]
    assert (length >= distance[fooled] * 0.999).all()
    assert float((length / distance[fooled].clamp_min(0.02)).median()) < 1.05
    if bounds:
        assert found.abs().max() <= 4.0


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-dlr", "cw"])
def test_every_attack_keeps_mask_ball_and_bounds(attack):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(15, 24), nn.Tanh(), nn.Linear(24, 4))
    x, y = torch.rand(50, 5, 3), torch.randint(0, 4, (50,))
    mask = torch.ones(50, 5, 1)
    mask[:, 3:] = 0
    if attack == "cw":
        moved = carlini_wagner(model, x, y, steps=20, searches=4, learning_rate=0.1, bounds=(0.0, 1.0), mask=mask)
    else:
        threat = Threat(0.2, "l2", steps=12, restarts=2, bounds=(0.0, 1.0))
        moved = apgd(model, x, y, threat, loss=attack.split("-")[1], mask=mask)
        assert (moved - x).flatten(1).norm(dim=1).max() <= 0.2 + 1e-5
    assert moved.min() >= 0.0 and moved.max() <= 1.0
    assert torch.equal(moved[:, 3:], x[:, 3:])
    assert not torch.equal(moved, x)


def test_the_dlr_loss_does_not_see_the_scale_of_the_logits():
    torch.manual_seed(0)
    z, y = torch.randn(9, 5), torch.randint(0, 5, (9,))
    assert torch.allclose(dlr(z, y), dlr(1e6 * z + 3, y), atol=1e-4)
    order = z.sort(dim=1, descending=True).values
    right = z.argmax(dim=1) == y
    assert torch.allclose(dlr(z, y)[right], ((order[:, 1] - order[:, 0]) / (order[:, 0] - order[:, 2]))[right])
    assert ((dlr(z, y) > 0) == ~right).all()
    with pytest.raises(ValueError, match="three labels"):
        dlr(z[:, :2], y)


def test_checkpoints_come_closer_as_in_the_paper():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_shrunken_gradients_are_followed_all_the_same(linear):
    model, x, y = linear
    for norm in NORMS:
        threat = Threat(0.4, norm, steps=10, random_start=False)
        honest = pgd(model, x, y, threat)
        hidden = pgd(lambda point: model(point) / 1e25, x, y, threat)
        fell = (model(honest).argmax(dim=1) != y).sum()
        assert fell > 10
        assert (model(hidden).argmax(dim=1) != y).sum() >= fell - 2
