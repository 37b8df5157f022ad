"""The model at each stage behind one face, so that every stage is measured by the same code on its own artifact."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundwire.bundle import INPUTS
from groundwire.export.model import TextClassifier
from groundwire.export.onnx_graph import CORE_OUTPUTS, EMBEDDINGS, expose_embeddings, session
from groundwire.export.progress import track
from groundwire.export.rows import Row, TextBatch, ordered_batches

Floats = NDArray[np.float64]


class Artifact(Protocol):
    """A model as a stage left it. B rows, T tokens, H hidden size, K heads, C labels."""

    @property
    def name(self) -> str:
        """Name of the stage."""

    @property
    def path(self) -> Path:
        """The file that it is stored in."""

    def run(self, batch: TextBatch) -> tuple[Floats, Floats]:
        """Head logits [B, K, C] and features [B, H] of a batch."""

    def run_point(self, point: Tensor, batch: TextBatch) -> Floats:
        """Head logits [B, K, C] at given word embeddings [B, T, H]."""


class TorchArtifact:
    """The trained PyTorch model; `path` is the file of its weights."""

    def __init__(self, name: str, model: TextClassifier, path: Path) -> None:
        self.name, self.model, self.path = name, model.eval(), path

    def run(self, batch: TextBatch) -> tuple[Floats, Floats]:
        """Head logits and features."""
        with torch.inference_mode():
            logits, features = self.model(self.model.word_embeddings(batch.ids), batch.mask, batch.types)
        return _numpy(logits), _numpy(features)

    def run_point(self, point: Tensor, batch: TextBatch) -> Floats:
        """Head logits at a point."""
        with torch.inference_mode():
            return _numpy(self.model(point, batch.mask, batch.types)[0])


class OnnxArtifact:
    """A core graph on ONNX Runtime; for attacks the same graph is opened at its word embeddings."""

    def __init__(self, name: str, path: Path, threads: int = 0) -> None:
        self.name, self.path = name, path
        self._threads = threads
        self._session = session(path, threads)
        self._opened: ort.InferenceSession | None = None

    def run(self, batch: TextBatch) -> tuple[Floats, Floats]:
        """Head logits and features."""
        tensors = (batch.ids.numpy(), batch.mask.numpy(), batch.types.numpy())
        logits, features = self._session.run(list(CORE_OUTPUTS), dict(zip(INPUTS, tensors, strict=True)))
        return logits.astype(np.float64), features.astype(np.float64)

    def run_point(self, point: Tensor, batch: TextBatch) -> Floats:
        """Head logits at a point."""
        if self._opened is None:
            opened = self.path.with_suffix(".opened.onnx")
            expose_embeddings(self.path, opened)
            self._opened = session(opened, self._threads)
            opened.unlink()
        feeds = {
            EMBEDDINGS: point.numpy(),
            INPUTS[0]: batch.ids.numpy(),
            INPUTS[1]: batch.mask.numpy(),
            INPUTS[2]: batch.types.numpy(),
        }
        wanted = {i.name for i in self._opened.get_inputs()}
        out = self._opened.run([CORE_OUTPUTS[0]], {name: value for name, value in feeds.items() if name in wanted})
        logits: Floats = out[0].astype(np.float64)
        return logits


def collect(artifact: Artifact, rows: Sequence[Row], pad_id: int, title: str) -> tuple[Floats, Floats]:
    """Head logits [N, K, C] and features [N, H] of all rows, in their order."""
    logits: list[Floats] = [np.empty(0)] * len(rows)
    features: list[Floats] = [np.empty(0)] * len(rows)
    position = {row.index: n for n, row in enumerate(rows)}
    for batch in track(ordered_batches(rows, 32, pad_id), title, total=-(-len(rows) // 32)):
        batch_logits, batch_features = artifact.run(batch)
        for n, index in enumerate(batch.index.tolist()):
            logits[position[index]], features[position[index]] = batch_logits[n], batch_features[n]
    return np.stack(logits), np.stack(features)


def artifact_hash(artifact: Artifact) -> str:
    """SHA-256 of the artifact's file, hexadecimal."""
    with artifact.path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _numpy(tensor: Tensor) -> Floats:
    array: Floats = tensor.numpy().astype(np.float64)
    return array
