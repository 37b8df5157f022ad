"""Training, plain and adversarial, for anything that has a point to perturb.

The adversarial objectives (PGD's min-max, TRADES, FreeLB) are in `groundwire.export.objectives`; devices, processes and
precision in `groundwire.export.acceleration`.
"""

import math
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from groundwire.export.acceleration import (
    AcceleratedGradients,
    Shell,
    accelerator_for,
    from_main,
    mean_over_processes,
    restore_rng,
    rng_states,
    seed_process,
    shard,
)  # fmt: skip
from groundwire.export.attacks import Threat
from groundwire.export.errors import StageError
from groundwire.export.objectives import OBJECTIVES, Task, standard_backward
from groundwire.export.progress import bar

B = TypeVar("B")
B_co = TypeVar("B_co", covariant=True)


class Batches(Protocol[B_co]):
    """Batches by epoch, the same for the same epoch. Its length is the number of batches in one.

    To be shared between processes, a batch is a tuple of tensors, or has a length and takes a slice of its rows.
    """

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[B_co]:
        """The batches of one epoch."""


class TensorTask:
    """Any `nn.Module` from tensors to logits; a batch is (inputs [B, ...], labels [B])."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forward: nn.Module = model

    def point(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The inputs."""
        return batch[0]

    def mask(self, batch: tuple[Tensor, Tensor]) -> None:
        """Every coordinate may change."""

    def logits(self, point: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The module's output."""
        out: Tensor = self.forward(point)
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
        """The last state, or None.

        Raises:
            StageError: the file is damaged.
        """
        if not self.path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
        except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
            raise StageError(f"{self.path} is damaged ({error}); delete it, and training begins anew") from error
        return state


def fit(
    task: Task[B],
    batches: Batches[B],
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    adversary: Adversary | None = None,
    checkpoint: Checkpoint[B] | None = None,
    accelerator: Accelerator | None = None,
    title: str = "training",
) -> History:
    """Train `task.model` in place; it ends on the device that it came from.

    `accelerator` says where and in which precision (`groundwire.export.acceleration`); without one, on the GPU if there
    is one, in float32. In several processes each takes its rows of every batch, and all must call this with the same
    arguments; the weights are those of the main process, before and after.

    With a checkpoint, an interrupted run goes on where the last save was, with the same batches in the same order. The
    main process alone reads and writes it.

    Raises:
        StageError: the loss is not a number any more, or training can't run as asked here.
    """
    accelerator = accelerator or accelerator_for()
    home = next(task.model.parameters()).device
    # The schedule counts batches, which processes share, so Accelerate needn't stretch it.
    steps = len(batches) * schedule.epochs
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule.factor(step, steps))
    try:
        task.forward, prepared = accelerator.prepare(Shell(task.model), optimizer)
        return _Run(task, batches, prepared, scheduler, accelerator, checkpoint).run(schedule, adversary, title)
    finally:
        task.forward = task.model
        task.model.to(home)


class _Run(Generic[B]):
    """One training, with all that it saves."""

    def __init__(
        self,
        task: Task[B],
        batches: Batches[B],
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LambdaLR,
        accelerator: Accelerator,
        checkpoint: Checkpoint[B] | None,
    ) -> None:
        self.task, self.batches, self.optimizer, self.scheduler = task, batches, optimizer, scheduler
        self.accelerator, self.checkpoint = accelerator, checkpoint

    def run(self, schedule: Schedule, adversary: Adversary | None, title: str) -> History:
        """Train from the start, or from the checkpoint."""
        accelerator, each = self.accelerator, len(self.batches)
        seed_process(accelerator)
        history = self._resumed() or History([0.0] * schedule.epochs, [0.0] * schedule.epochs)
        resumed, started, before = history.steps, time.monotonic(), history.seconds
        self.task.model.train()
        with bar(shown=accelerator.is_main_process) as progress:
            shown = progress.add_task(title, total=each * schedule.epochs, completed=resumed, note="")
            for epoch in range(schedule.epochs):
                for number, batch in enumerate(self.batches.epoch(epoch)):
                    if epoch * each + number < resumed:
                        continue
                    hostile = adversary is not None and history.steps >= adversary.first_epoch * each
                    clean, hard, due = self._gradients(batch, adversary if hostile else None)
                    if not math.isfinite(clean + hard):
                        raise StageError(
                            f"{title}: the loss is not a number at step {history.steps}; lower the learning rate."
                        )
                    accelerator.clip_grad_norm_(self.task.model.parameters(), schedule.max_gradient_norm)
                    self.optimizer.step()
                    if not accelerator.optimizer_step_was_skipped:  # as when a scaled gradient was too large
                        self.scheduler.step()
                    history.steps += 1
                    history.clean_loss[epoch] += clean / each
                    history.adversarial_loss[epoch] += hard / each
                    history.seconds = before + time.monotonic() - started
                    progress.update(shown, advance=1, note=f"loss {clean:.3f}, attacked {hard:.3f}")
                    if due:
                        self._save(history)
        self._save(history)
        self.task.model.eval()
        return history

    def _gradients(self, batch: B, adversary: Adversary | None) -> tuple[float, float, bool]:
        """Gradients of a batch. Returns its clean and adversarial loss, and whether to save after it."""
        accelerator = self.accelerator
        own, weight = shard(batch, accelerator.process_index, accelerator.num_processes)
        own = send_to_device(own, accelerator.device)
        gradients = AcceleratedGradients(accelerator, self.task.forward, weight)
        self.optimizer.zero_grad(set_to_none=True)
        if adversary is not None:
            objective = OBJECTIVES[adversary.method]
            clean, hard = objective(self.task, own, adversary.threat, adversary.weight, gradients)
        else:
            clean = hard = standard_backward(self.task, own, gradients)
        # The clocks of the processes differ, so the main process says when to save.
        due = accelerator.is_main_process and self.checkpoint is not None and self.checkpoint.due()
        clean, hard, save = mean_over_processes(accelerator, [weight * clean, weight * hard, float(due)])
        return clean, hard, save > 0

    def _save(self, history: History) -> None:
        """Save the state; all processes must call it."""
        if self.checkpoint is None:
            return
        rng = rng_states(self.accelerator)
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        self.checkpoint.save(
            {
                "model": self.task.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler else {},
                "rng": rng,
                "history": {name: getattr(history, name) for name in History.__slots__},
            }
        )

    def _resumed(self) -> History | None:
        """Take up the checkpoint's state, if there is one."""
        if self.checkpoint is None:
            return None
        state = self.checkpoint.load() if self.accelerator.is_main_process else None
        state = from_main(self.accelerator, state)
        if state is None:
            return None
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        restore_rng(self.accelerator, state["rng"])
        return History(**state["history"])
