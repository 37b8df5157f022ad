"""What a run costs is learned from the runs, whatever the speed of the machine, and one hiccup teaches nothing."""

import random

import pytest

from groundwire.server.run_cost import FIRST_OVERHEAD, FIRST_PER_TOKEN, RunCost


def taught(overhead: float, per_token: float, runs: int = 400, noise: float = 0.05) -> RunCost:
    rng, cost = random.Random(0), RunCost()
    for _ in range(runs):
        tokens = rng.randint(20, 800)
        cost.learn(tokens, (overhead + per_token * tokens) * rng.uniform(1 - noise, 1 + noise))
    return cost


@pytest.mark.parametrize(
    ("overhead", "per_token"),
    [(1e-3, 1e-4), (3e-3, 2e-4), (2e-3, 2e-6), (40e-3, 1e-3)],  # small on two CPUs and on a GPU, and a large one
)
def test_the_line_is_found(overhead: float, per_token: float) -> None:
    cost = taught(overhead, per_token)
    assert cost.per_token == pytest.approx(per_token, rel=0.1)
    assert cost.overhead == pytest.approx(overhead, rel=0.5, abs=1e-3)
    assert cost.seconds(400) == pytest.approx(overhead + per_token * 400, rel=0.06)
    assert cost.seconds(400, 2) == pytest.approx(cost.seconds(400) + cost.overhead)


def test_a_machine_that_was_held_up_changes_little() -> None:
    cost = taught(2e-3, 1e-4)
    before = cost.seconds(300)
    cost.learn(300, 60.0)
    assert cost.seconds(300) < 1.1 * before


@pytest.mark.parametrize("seconds", [1e-6, 1e-3, 0.05])
def test_runs_of_one_size_leave_the_overhead_as_it_was_thought(seconds: float) -> None:
    cost = RunCost()
    for _ in range(500):
        cost.learn(40, seconds)
    assert cost.seconds(40) == pytest.approx(max(seconds, FIRST_OVERHEAD), rel=0.1)
    assert 0 < cost.overhead <= 1.1 * FIRST_OVERHEAD
    assert cost.per_token > 0


def test_a_change_of_speed_is_followed() -> None:
    cost = taught(2e-3, 1e-4)
    for tokens in [50, 400] * 100:
        cost.learn(tokens, 6e-3 + 3e-4 * tokens)
    assert cost.seconds(200) == pytest.approx(6e-3 + 3e-4 * 200, rel=0.1)


def test_before_any_run_it_is_a_small_encoder() -> None:
    assert RunCost().seconds(100) == pytest.approx(FIRST_OVERHEAD + 100 * FIRST_PER_TOKEN)
