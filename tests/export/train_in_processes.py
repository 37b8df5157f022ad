"""Trains a small model by every method in as many processes as were launched; each writes what it ended with.

torchrun --nproc-per-node N train_in_processes.py FOLDER
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from groundwire.export.acceleration import accelerator_for
from groundwire.export.attacks import Threat
from groundwire.export.train import Adversary, Checkpoint, Schedule, TensorBatches, TensorTask, fit


class Network(nn.Module):
    """A small network with a layer that nothing reads, as the pooling layer of an encoder is, and without dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
        self.unused = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Interrupted(TensorBatches):
    """Batches that end in an interruption after some steps, or never."""

    left = -1

    def epoch(self, epoch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for batch in super().epoch(epoch):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield batch


def train(method: str, folder: Path, accelerator: Accelerator, stop_after: int = -1) -> nn.Module:
    """Train by a method, "standard" or an adversary's; write this process's weights and losses."""
    # Only the main process's first weights count.
    torch.manual_seed(5 if accelerator.is_main_process else 999)
    model = Network()
    # Batches of eleven rows and a last one of one: two processes get unequal shares, and once one gets nothing.
    x = torch.randn(67, 6, generator=torch.Generator().manual_seed(6))
    batches = Interrupted(x, x[:, :3].argmax(dim=1), 11, seed=1)
    batches.left = stop_after
    adversary = None
    if method != "standard":
        adversary = Adversary(Threat(0.3, "l2", steps=3), weight=0.6, first_epoch=0.5, method=method)
    folder.mkdir(exist_ok=True, parents=True)
    history = fit(
        TensorTask(model), batches, torch.optim.AdamW(model.parameters(), lr=0.02), Schedule(3),
        adversary=adversary, checkpoint=Checkpoint(folder / "checkpoint.pt", every_seconds=0.0),
        accelerator=accelerator,
    )  # fmt: skip
    rank = accelerator.process_index
    torch.save(model.state_dict(), folder / f"weights-{rank}.pt")
    losses = {"clean": history.clean_loss, "attacked": history.adversarial_loss, "steps": history.steps}
    (folder / f"losses-{rank}.json").write_text(json.dumps(losses | {"processes": accelerator.num_processes}))
    return model


if __name__ == "__main__":
    out = Path(sys.argv[1])
    for each in ("standard", "pgd", "freelb", "trades"):
        train(each, out / each, accelerator_for())
    with contextlib.suppress(KeyboardInterrupt):
        train("trades", out / "interrupted", accelerator_for(), stop_after=9)
    last = accelerator_for()
    trained = train("trades", out / "interrupted", last)  # kept, as a build keeps its model
    last.end_training()
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]
    (out / f"threads-{last.process_index}.json").write_text(json.dumps(threads))
