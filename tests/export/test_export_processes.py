"""Training in two processes ends where training in one does, and a build in two is a build."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groundwire.bundle import open_bundle
from groundwire.export.acceleration import shard
from groundwire.export.rows import TextBatch

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("train_in_processes.py")
LAUNCH = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
# Where there is a GPU, two processes would share it, which NCCL refuses.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}


def launch(*arguments: object, processes: int = 2) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *LAUNCH, str(processes), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process wrote, and what two did, in the folders "1" and "2"."""
    folder = tmp_path_factory.mktemp("trained")
    for processes in (1, 2):
        result = launch(SCRIPT, folder / str(processes), processes=processes)
        assert result.returncode == 0, result.stderr
    return folder


def weights(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    return torch.load(folder / f"weights-{rank}.pt", weights_only=True)


def losses(folder: Path, rank: int) -> dict:
    return json.loads((folder / f"losses-{rank}.json").read_text())


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=0, atol=tolerance), name


@pytest.mark.parametrize("method", ["standard", "pgd", "freelb"])
def test_two_processes_end_with_the_weights_and_losses_of_one(method: str, trained: Path):
    one, two = trained / "1" / method, trained / "2" / method
    alone, main, other = losses(one, 0), losses(two, 0), losses(two, 1)
    assert (alone["processes"], main["processes"], other["processes"]) == (1, 2, 2)
    assert_close(weights(two, 0), weights(two, 1), 0.0)
    assert_close(weights(one, 0), weights(two, 0), 1e-5)
    assert main == other
    assert main["steps"] == alone["steps"] == 21
    for kind in ("clean", "attacked"):
        assert main[kind] == pytest.approx(alone[kind], rel=1e-4)
    assert alone["clean"][-1] < alone["clean"][0]
    assert (alone["clean"] == alone["attacked"]) == (method == "standard")


def test_processes_draw_different_random_numbers_and_go_on_with_them_after_an_interruption(trained: Path):
    # TRADES starts at random, so it tells whether each process went on with its own numbers.
    whole, interrupted = trained / "2" / "trades", trained / "2" / "interrupted"
    (main,), (other,) = torch.load(whole / "checkpoint.pt", weights_only=True)["rng"]
    assert not torch.equal(main, other)
    assert_close(weights(whole, 0), weights(whole, 1), 0.0)
    assert_close(weights(whole, 0), weights(interrupted, 0), 0.0)
    assert_close(weights(whole, 0), weights(interrupted, 1), 0.0)
    assert losses(whole, 0) == losses(interrupted, 0)


def test_after_training_no_thread_of_the_group_is_left_to_outlive_the_interpreter(trained: Path):
    # Such a thread now and then aborted a process that had done its work, and the launcher ended the other one.
    for rank in (0, 1):
        threads = json.loads((trained / "2" / f"threads-{rank}.json").read_text())
        assert threads and not [name for name in threads if "gloo" in name]


@given(st.integers(1, 9), st.integers(1, 5))
def test_shards_hold_each_row_once_and_their_weighted_means_are_the_mean(rows: int, processes: int):
    values = torch.arange(1.0, rows + 1)
    batch = TextBatch(*(values.long()[:, None].expand(rows, 3) for _ in range(3)), values.long(), values.long())
    seen, mean = [], 0.0
    for process in range(processes):
        (part, same), weight = shard((values, values), process, processes)
        of_text, weight_of_text = shard(batch, process, processes)
        assert torch.equal(part, same) and torch.equal(of_text.index, part.long()) and len(of_text.ids) == len(part)
        assert weight == weight_of_text
        assert len(part) > 0
        mean += weight * float(part.mean()) / processes
        seen += part.tolist() if weight else []
    assert sorted(seen) == values.tolist()
    assert mean == pytest.approx(float(values.mean()))


def test_a_build_in_two_processes_writes_one_bundle(project: Path, tmp_path: Path):
    text = (project / "recipe.toml").read_text(encoding="utf-8")
    recipe = project / "two-processes.toml"
    recipe.write_text(text.replace("epochs = 8", "epochs = 3").replace("examples = 48", "examples = 16"))
    arguments = ("-m", "groundwire.cli", "build", recipe, "--out", tmp_path / "bundle", "--keep-work")
    result = launch(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("towns") == 1
    assert open_bundle(tmp_path / "bundle").certificate.stages[-1].clean_accuracy.value > 0.5
    history = json.loads((tmp_path / "bundle.work" / "history.json").read_text())
    assert history["steps"] == 60
    assert history["clean_loss"][-1] < history["clean_loss"][0]
    again = launch(*arguments)
    assert again.returncode == 0, again.stderr
    assert " ".join(again.stderr.split()).count("is up to date.") == 1
