"""Training, plain and adversarial, for anything that has a point to perturb.

The adversarial objectives (PGD's min-max, TRADES, FreeLB) are in `groundwire.export.objectives`.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from groundwire.export.attacks import Threat
from groundwire.export.errors import StageError
from groundwire.export.objectives import OBJECTIVES, Task
from groundwire.export.progress import bar

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Batches(Protocol[B_co]):
    """Batches by epoch, the same for the same epoch. Its length is the number of batches in one."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[B_co]:
        """The batches of one epoch."""


class TensorTask:
    """Any `nn.Module` from tensors to logits; a batch is (inputs [B, ...], labels [B])."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def point(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The inputs."""
        return batch[0]

    def mask(self, batch: tuple[Tensor, Tensor]) -> None:
        """Every coordinate may change."""

    def logits(self, point: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The module's output."""
        out: Tensor = self.model(point)
        return out

    outputs = logits

    def loss_of(self, outputs: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy."""
        return cross_entropy(outputs, batch[1])

    def loss(self, point: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy at a point."""
        return self.loss_of(self.outputs(point, batch), batch)


class TensorBatches:
    """Shuffled batches of `inputs` [N, ...] and `labels` [N]."""

    def __init__(self, inputs: Tensor, labels: Tensor, batch_size: int, seed: int) -> None:
        self.inputs, self.labels, self.batch_size, self.seed = inputs, labels, batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.labels), generator=generator)
        for start in range(0, len(order), self.batch_size):
            part = order[start : start + self.batch_size]
            yield self.inputs[part], self.labels[part]


@dataclass(frozen=True, slots=True)
class Adversary:
    """Who trains against the model: its threat, the weight of the adversarial loss in [0, 1], epochs before it starts.

    `method` is a key of `OBJECTIVES`: "pgd", "trades" or "freelb".
    """

    threat: Threat
    weight: float = 0.5
    first_epoch: float = 0.0
    method: str = "pgd"


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast: epochs, share of the steps for warm-up (then linear decay), largest gradient norm."""

    epochs: int
    warmup: float = 0.06
    max_gradient_norm: float = 1.0

    def factor(self, step: int, steps: int) -> float:
        """Share of the learning rate at a step."""
        ramp = max(1, round(self.warmup * steps))
        return (step + 1) / ramp if step < ramp else max(0.0, (steps - step) / max(1, steps - ramp))


@dataclass(slots=True)
class History:
    """What training did: mean losses by epoch, seconds in all (over interruptions), batches seen."""

    clean_loss: list[float]
    adversarial_loss: list[float]
    seconds: float = 0.0
    steps: int = 0


class Checkpoint(Generic[B]):
    """Where training left off. A file of tensors and numbers, read with `weights_only`, so that it can't run code."""

    def __init__(self, path: Path, every_seconds: float = 60.0) -> None:
        self.path, self.every_seconds, self.saved = path, every_seconds, time.monotonic()

    def due(self) -> bool:
        """Whether it is time to save again."""
        return time.monotonic() - self.saved >= self.every_seconds

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file in one step."""
        temporary = self.path.with_suffix(".new")
        torch.save(state, temporary)
        temporary.replace(self.path)
        self.saved = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state, or None."""
        if not self.path.exists():
            return None
        state: dict[str, Any] = torch.load(self.path, weights_only=True)
        return state


def fit(
    task: Task[B],
    batches: Batches[B],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    adversary: Adversary | None = None,
    checkpoint: Checkpoint[B] | None = None,
    title: str = "training",
) -> History:
    """Train `task.model` in place.

    With a checkpoint, an interrupted run goes on where the last save was, with the same batches in the same order.

    Raises:
        StageError: the loss is not a number any more.
    """
    steps = len(batches) * schedule.epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, steps))
    history = History([0.0] * schedule.epochs, [0.0] * schedule.epochs)
    state = checkpoint.load() if checkpoint else None
    if state is not None:
        task.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        torch.set_rng_state(state["rng"])
        history = History(**state["history"])
    started, before = time.monotonic(), history.seconds
    resumed = history.steps

    def save() -> None:
        if checkpoint:
            checkpoint.save(
                {
                    "model": task.model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "scheduler": scheduler.state_dict(),
                    "rng": torch.get_rng_state(),
                    "history": {name: getattr(history, name) for name in History.__slots__},
                }
            )

    task.model.train()
    with bar() as progress:
        shown = progress.add_task(title, total=steps, completed=resumed, note="")
        for epoch in range(schedule.epochs):
            for number, batch in enumerate(batches.epoch(epoch)):
                if epoch * len(batches) + number < resumed:
                    continue
                optimizer.zero_grad(set_to_none=True)
                if adversary is not None and history.steps >= adversary.first_epoch * len(batches):
                    objective = OBJECTIVES[adversary.method]
                    clean, hard = objective(task, batch, adversary.threat, adversary.weight)
                else:
                    loss = task.loss(task.point(batch), batch)
                    loss.backward()  # type: ignore[no-untyped-call]
                    clean = hard = float(loss.detach())
                if not math.isfinite(clean + hard):
                    raise StageError(
                        f"{title}: the loss is not a number at step {history.steps}; lower the learning rate."
                    )
                nn.utils.clip_grad_norm_(task.model.parameters(), schedule.max_gradient_norm)
                optimizer.step()
                scheduler.step()
                history.steps += 1
                history.clean_loss[epoch] += clean / len(batches)
                history.adversarial_loss[epoch] += hard / len(batches)
                history.seconds = before + time.monotonic() - started
                progress.update(shown, advance=1, note=f"loss {clean:.3f}, attacked {hard:.3f}")
                if checkpoint and checkpoint.due():
                    save()
    save()
    task.model.eval()
    return history
