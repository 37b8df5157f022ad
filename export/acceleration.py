"""Where training runs, through Hugging Face Accelerate: the device, the processes, and the precision of a pass.

Processes share every batch (data parallel training): each takes its rows, and the gradients are averaged. So the
batches, their order and their size are the same for any number of processes.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed

# Its functions take the group of processes as a default, so they keep a group that is there when they are imported,
# which else is by the first wrapped model. Then the group's threads outlive `end_training`, even the interpreter, and
# one that still holds a tensor of the last exchange aborts the process, for which a launcher ends the others too.
import torch.distributed.nn
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import (
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
    parse_flag_from_env,
)  # fmt: skip
from torch import Tensor, nn

from groundwire.export.errors import StageError
from groundwire.export.settings import MIXED_PRECISION

T = TypeVar("T")
B = TypeVar("B")

# The main process prepares data while the others wait for it. A launcher ends them all when one fails, so a long wait
# costs nothing.
_PATIENCE = timedelta(hours=12)
_SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM, DistributedType.XLA)


def accelerator_for(mixed_precision: str = "no") -> Accelerator:
    """An accelerator for `groundwire.export.train.fit`: on the GPU if there is one, in as many processes as there are.

    `accelerate launch` and `torchrun` tell of them by the environment, where `mixed_precision` overrules what is said.

    Raises:
        StageError: the precision is unknown or not possible here, or the launch wants another way than data parallel.
    """
    if mixed_precision not in MIXED_PRECISION:
        raise StageError(f"mixed_precision {mixed_precision!r} is unknown; use one of {', '.join(MIXED_PRECISION)}.")
    # Accelerate refuses to change the precision within a process, though nothing of an earlier training is left. The
    # device and the group of processes stay.
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != mixed_precision:
        AcceleratorState._reset_state()
    try:
        accelerator = Accelerator(
            mixed_precision=mixed_precision,
            # Without it, processes that are launched where there is no GPU would not know of each other.
            cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available(),
            # One step a batch, whatever the environment says: the objectives accumulate by themselves.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[
                # An encoder may carry a pooling layer that nothing reads.
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(backend=None, timeout=_PATIENCE),
            ],
        )
    except (ValueError, ImportError) as error:
        raise StageError(f"training with mixed_precision {mixed_precision!r} can't start: {error}") from error
    if mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise StageError("mixed_precision 'fp16' needs a GPU, and there is none; use 'bf16' or 'no'.")
    if accelerator.distributed_type in _SHARDED:
        raise StageError(
            f"training can't be launched with {accelerator.distributed_type.value}: each device gets the whole model; "
            "use --multi_gpu."
        )
    return accelerator


class Shell(nn.Module):
    """A module around a model: Accelerate marks what it prepares and replaces its `forward`, so it gets this."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """The model's own."""
        return self.model(*arguments, **options)


class AcceleratedGradients:
    """`groundwire.export.objectives.Gradients` by Accelerate, for one batch.

    `prepared`: what `accelerator.prepare` made of the model. `weight`: of this process's mean loss; see `shard`.
    """

    def __init__(self, accelerator: Accelerator, prepared: nn.Module, weight: float) -> None:
        self.accelerator, self.prepared, self.weight = accelerator, prepared, weight

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of a loss, scaled if the precision asks for it."""
        self.accelerator.backward(self.weight * loss)

    def of_point(self, loss: Tensor, point: Tensor) -> Tensor:
        """Direction uphill for a point alone; scaled as in `backward`, or half precision would round it to zero."""
        scaler = self.accelerator.scaler
        (gradient,) = torch.autograd.grad(loss if scaler is None else scaler.scale(loss), point)
        return self.direction(gradient)

    def direction(self, gradient: Tensor) -> Tensor:
        """What `backward` left on a point. A scale that is too large leaves infinities, which would spoil the point."""
        if self.accelerator.scaler is None:
            return gradient
        return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)

    def not_yet_shared(self) -> AbstractContextManager[None]:
        """Passes whose gradients stay in this process until a later pass shares them."""
        context: AbstractContextManager[None] = self.accelerator.no_sync(self.prepared)
        return context


def shard(batch: B, process: int, processes: int) -> tuple[B, float]:
    """A process's rows of a batch (every `processes`-th), and the weight of their mean loss.

    With the weights, the mean over the processes is the mean over the rows, also of a batch that doesn't divide. A
    process that is left without rows takes one with weight 0, since each exchange needs all processes.

    `batch` is a tuple of tensors [B, ...], or has a length and takes a slice of rows.
    """
    if processes == 1:
        return batch, 1.0
    parts: Any = batch
    rows = len(parts[0]) if isinstance(parts, tuple) else len(parts)
    own = slice(process, None, processes) if process < rows else slice(0, 1)
    count = len(range(process, rows, processes))
    shared: Any = tuple(part[own] for part in parts) if isinstance(parts, tuple) else parts[own]
    return shared, count * processes / rows


def mean_over_processes(accelerator: Accelerator, values: Sequence[float]) -> list[float]:
    """Mean of each value over the processes."""
    if accelerator.num_processes == 1:
        return list(values)
    means: Tensor = accelerator.reduce(torch.tensor(values, device=accelerator.device), reduction="mean")
    return means.tolist()


def from_main(accelerator: Accelerator, value: T) -> T:
    """The main process's value, in all of them."""
    if accelerator.num_processes == 1:
        return value
    shared: T = broadcast_object_list([value])[0]
    return shared


def seed_process(accelerator: Accelerator) -> None:
    """Random numbers of its own for each process but the main one, whose are those of a single process."""
    if accelerator.process_index:
        torch.manual_seed(torch.initial_seed() + accelerator.process_index)


def rng_states(accelerator: Accelerator) -> list[list[Tensor]]:
    """For each process the states of its random numbers, on the CPU and on its device. All processes must call it."""
    own = [torch.get_rng_state()]
    if accelerator.device.type != "cpu":
        own.append(torch.get_device_module(accelerator.device).get_rng_state())
    states: list[list[Tensor]] = gather_object([own])
    return states


def restore_rng(accelerator: Accelerator, states: Sequence[Sequence[Tensor]]) -> None:
    """Go on with the random numbers of `rng_states`; a process or a device that wasn't there keeps its own."""
    if accelerator.process_index >= len(states):
        return
    own = states[accelerator.process_index]
    torch.set_rng_state(own[0])
    if accelerator.device.type != "cpu" and len(own) > 1:
        torch.get_device_module(accelerator.device).set_rng_state(own[1])
