"""Training through Accelerate: bit for bit a plain loop in float32, and what mixed precision changes."""

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from commands import groundwire
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from groundwire.export.acceleration import AcceleratedGradients, accelerator_for
from groundwire.export.attacks import Threat
from groundwire.export.errors import RecipeError, StageError
from groundwire.export.model import TextClassifier, TextTask, load_encoder
from groundwire.export.objectives import OBJECTIVES
from groundwire.export.rows import Row, TextBatches
from groundwire.export.settings import Recipe, recipe_from_table
from groundwire.export.train import Adversary, Checkpoint, Schedule, TensorBatches, TensorTask, fit

GPU = torch.accelerator.is_available()


def network() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.1), nn.Tanh(), nn.Linear(16, 3))


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(6)
    x = torch.randn(90, 6)
    return x, x[:, :3].argmax(dim=1)


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    for (name, mine), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def half_precision(scale: float = 2.0**16) -> Accelerator:
    """Accelerate's fp16, with its loss scaling, on the CPU, where Accelerate itself would leave it out."""
    accelerator_for("bf16")
    with pytest.raises(StageError, match="needs a GPU"):
        accelerator_for("fp16")
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=5)
    accelerator.native_amp = True
    return accelerator


@pytest.mark.skipif(GPU, reason="a GPU rounds differently")
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_float32_on_the_cpu_is_a_plain_loop_bit_for_bit(steps: int):
    x, y = data()
    mine, by_hand, weight = network(), network(), 0.7
    threat, schedule, batches = Threat(0.2, "l2", max(steps, 1)), Schedule(3), TensorBatches(x, y, 16, seed=1)
    torch.manual_seed(11)
    fit(
        TensorTask(mine), batches, torch.optim.AdamW(mine.parameters(), lr=0.02), schedule,
        adversary=Adversary(threat, weight) if steps else None,
    )  # fmt: skip

    torch.manual_seed(11)
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=0.02)
    number = 0
    for epoch in range(3):
        for part, labels in batches.epoch(epoch):
            optimizer.param_groups[0]["lr"] = 0.02 * schedule.factor(number, 18)
            optimizer.zero_grad()
            delta = torch.zeros_like(part, requires_grad=True)
            clean = cross_entropy(by_hand(part + delta), labels)
            ((1 - weight) * clean if steps else clean).backward()
            gradient = delta.grad
            for step in range(steps):
                delta = threat.move(part, delta.detach(), gradient).requires_grad_(True)
                if step < steps - 1:
                    (gradient,) = torch.autograd.grad(cross_entropy(by_hand(part + delta), labels), delta)
            if steps:
                (weight * cross_entropy(by_hand(part + delta.detach()), labels)).backward()
            nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
            optimizer.step()
            number += 1
    assert_equal(mine, by_hand)


def test_bf16_runs_the_encoder_in_bfloat16_keeps_weights_and_points_in_float32_and_learns(recipe: Recipe):
    torch.manual_seed(0)
    model = TextClassifier(load_encoder(recipe.encoder_name), 3, 2)
    before = copy.deepcopy(model)
    seen: dict[str, set[torch.dtype]] = {"layer": set(), "point": set()}

    class Watched(TextTask):
        def point(self, batch):
            point = super().point(batch)
            seen["point"].add(point.dtype)
            return point

    hook = model.encoder.encoder.layer[0].intermediate.dense.register_forward_hook(
        lambda _module, _inputs, output: seen["layer"].add(output.dtype)
    )
    rows = [Row([2, 10 + n % 3, 20 + n % 7, 3], [0, 0, 0, 0], n % 3, n) for n in range(60)]
    history = fit(
        Watched(model), TextBatches(rows, 8, 0, seed=0), torch.optim.AdamW(model.parameters(), lr=3e-3), Schedule(12),
        adversary=Adversary(Threat(0.01, steps=2), method="freelb"), accelerator=accelerator_for("bf16"),
    )  # fmt: skip
    hook.remove()
    assert seen == {"layer": {torch.bfloat16}, "point": {torch.float32}}
    assert history.clean_loss[-1] < 0.5 * history.clean_loss[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not torch.equal(model.heads.outer, before.heads.outer)
    # What Accelerate did to the forward pass is undone, and another training may use another precision.
    task = TextTask(model)
    (batch,) = TextBatches(rows[:5], 8, 0, seed=0).epoch(0)
    layer = model.encoder.encoder.layer[0].intermediate.dense
    with torch.no_grad():
        layer.register_forward_hook(lambda _module, _inputs, output: seen["layer"].add(output.dtype))
        seen["layer"].clear()
        task.logits(task.point(batch), batch)
    assert seen["layer"] == {torch.float32}
    assert accelerator_for("no").mixed_precision == "no"


@pytest.mark.skipif(GPU, reason="here fp16 is possible")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_loss_scaling_leaves_attacks_and_gradients_as_they_are(method: str, norm: str):
    (x, y), threat = data(), Threat(0.3, norm, steps=3)
    model = network().eval()
    scaled = copy.deepcopy(model)
    torch.manual_seed(3)
    expected = OBJECTIVES[method](TensorTask(model), (x, y), threat, 0.6)
    torch.manual_seed(3)
    accelerator = half_precision()  # not asked to prepare anything: the model stays in float32
    gradients = AcceleratedGradients(accelerator, scaled, 1.0)
    assert OBJECTIVES[method](TensorTask(scaled), (x, y), threat, 0.6, gradients) == expected
    for mine, plain in zip(scaled.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine.grad, plain.grad * 2.0**16)


@pytest.mark.skipif(GPU, reason="here fp16 is possible")
def test_loss_scaling_finds_the_direction_of_a_small_loss_that_half_precision_loses():
    (x, y), model, accelerator = data(), network(), half_precision()
    prepared = accelerator.prepare(model)
    point = x.clone().requires_grad_(True)
    small = 1e-6 * cross_entropy(prepared(point), y)
    (lost,) = torch.autograd.grad(small, point, retain_graph=True)
    assert not lost.any()
    found = AcceleratedGradients(accelerator, prepared, 1.0).of_point(small, point)
    assert (found.abs().amax(dim=1) > 0).float().mean() > 0.9


@pytest.mark.skipif(GPU, reason="here fp16 is possible")
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_fp16_skips_steps_whose_scale_was_too_large_and_resumes_with_its_scale(method: str, norm: str, tmp_path: Path):
    x, y = data()
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", every_seconds=0.0)

    class Stopping(TensorBatches):
        stop = False

        def epoch(self, epoch):
            if self.stop and epoch == 3:
                raise KeyboardInterrupt
            return super().epoch(epoch)

    def train(saved: Checkpoint | None, stop: bool) -> tuple[nn.Module, list[float], float]:
        model, accelerator = network(), half_precision(2.0**30)
        batches = Stopping(x, y, 16, seed=1)
        batches.stop = stop
        history = fit(
            TensorTask(model), batches, torch.optim.AdamW(model.parameters(), lr=0.03), Schedule(8),
            adversary=Adversary(Threat(0.1, norm, steps=2), method=method), checkpoint=saved, accelerator=accelerator,
        )  # fmt: skip
        return model, history.clean_loss, accelerator.scaler.get_scale()

    whole, losses, scale = train(None, False)
    assert losses[-1] < 0.8 * losses[0]
    assert scale < 2.0**30
    with pytest.raises(KeyboardInterrupt):
        train(checkpoint, True)
    resumed, losses_again, scale_again = train(checkpoint, False)
    assert_equal(whole, resumed)
    assert (losses_again, scale_again) == (losses, scale)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_training_uses_the_gpu_and_gives_the_model_back_where_it_was(precision: str):
    (x, y), model = data(), network()
    seen = set()
    hook = model[0].register_forward_hook(lambda _module, _inputs, output: seen.add((output.device.type, output.dtype)))
    history = fit(
        TensorTask(model), TensorBatches(x, y, 16, seed=1), torch.optim.AdamW(model.parameters(), lr=0.03), Schedule(8),
        adversary=Adversary(Threat(0.1, steps=2)), accelerator=accelerator_for(precision),
    )  # fmt: skip
    hook.remove()
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    assert seen == {("cuda", dtype)}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert history.clean_loss[-1] < 0.8 * history.clean_loss[0]


def test_precisions_that_can_not_be_are_refused(recipe: Recipe, project: Path):
    table = {"name": "x", "data": {"train": "a", "test": "b"}, "encoder": {"name": "e"}}
    with pytest.raises(RecipeError, match=r"here: train\.mixed_precision must be one of no, bf16, fp16"):
        recipe_from_table(table | {"train": {"mixed_precision": "float16"}}, "", Path(), "here")
    with pytest.raises(StageError, match="'fp8' is unknown; use one of no, bf16, fp16"):
        accelerator_for("fp8")
    assert recipe.train.mixed_precision == "no"
    assert dataclasses.replace(recipe.train, mixed_precision="bf16") != recipe.train  # so a build starts anew


@pytest.mark.skipif(GPU, reason="here fp16 is possible")
def test_a_recipe_that_asks_for_fp16_without_a_gpu_is_refused_before_anything_is_done(project: Path, tmp_path: Path):
    text = (project / "recipe.toml").read_text(encoding="utf-8")
    (project / "half.toml").write_text(text.replace("[train]", '[train]\nmixed_precision = "fp16"'), encoding="utf-8")
    result = groundwire("build", project / "half.toml", "--out", tmp_path / "bundle")
    assert result.returncode == 1
    assert "mixed_precision 'fp16' needs a GPU" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
