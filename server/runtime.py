"""ONNX Runtime: a bundle's model as a function from padded rows to its output tensors."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundwire.bundle import INPUTS, MODEL, OUTPUTS, Bundle
from groundwire.errors import BundleError
from groundwire.kg.encode import EncodedPair
from groundwire.server.config import Limits, Provider
from groundwire.server.errors import InferenceError, ProviderError
from groundwire.server.providers import open_session, run_session, session_options
from groundwire.server.warm_up import batch_shapes, warm_up

Floats = NDArray[np.float32]

_log = logging.getLogger("groundwire.server")


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the model said of B rows; K heads, C labels. The fields are the tensors of `groundwire.bundle.OUTPUTS`."""

    logits: Floats  # [B, C], mean over the heads, before temperature
    probabilities: Floats  # [B, C], calibrated
    head_probabilities: Floats  # [B, K, C], calibrated
    entropy: Floats  # [B], nats
    mutual_information: Floats  # [B], nats
    energy: Floats  # [B]
    distance: Floats  # [B]


class Runtime:
    """One model in ONNX Runtime. `run` may be called from any thread; `executor` has one for each instance.

    ONNX Runtime releases the interpreter lock while it computes, so the event loop links and encodes the next
    requests meanwhile.

    Args:
        bundle: the model's bytes are those that were hashed; nothing is read from disk again.
        pad_id: token id that fills short rows.
        provider: which execution provider runs it.
        threads: ONNX Runtime's threads; 0: the cores, shared among the instances.
        limits: `instances`, and what it is warmed up for: batches up to `batch_rows` and `batch_tokens`, for
            `warm_up_seconds`; none: one, and it is not.

    Raises:
        BundleError: ONNX Runtime can't read the model, its tensors are not those of the manifest, or a batch fails.
        ProviderError: the provider asked for is missing or can't run the model.
    """

    def __init__(
        self, bundle: Bundle, pad_id: int, provider: Provider = "auto", threads: int = 0, limits: Limits | None = None
    ) -> None:
        self.bundle = bundle
        self.pad_id = pad_id
        instances = limits.instances if limits is not None else 1
        options = session_options(threads, instances)
        try:
            self._session, self.provider, why = open_session(bundle.model, options, provider)
        except ProviderError:
            raise
        except Exception as error:  # the library's exceptions share no root but this
            raise BundleError(
                f"{bundle.path / MODEL}: ONNX Runtime can't load the model: {error}. Rebuild the bundle."
            ) from error
        self._bound = self.provider != "cpu"
        self._check_tensors()
        self._check_runs()
        warmed = self._warm_up(limits) if limits is not None and limits.warm_up_seconds else 0
        self.executor = ThreadPoolExecutor(instances, thread_name_prefix=f"onnx-{bundle.manifest.name}")
        _log.info(
            "model loaded",
            extra={
                "fields": {
                    "model": bundle.manifest.name,
                    "version": bundle.manifest.version,
                    "provider": self.provider,
                    "why": why,
                    "threads": options.intra_op_num_threads,
                    "instances": instances,
                    "warmed_up": warmed,
                }
            },
        )

    def run(self, rows: Sequence[EncodedPair]) -> Outputs:
        """Run the model on `rows` (at least one), padded to the longest of them.

        Raises:
            InferenceError: ONNX Runtime failed.
        """
        length = max(len(row.ids) for row in rows)
        ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        types = np.zeros((len(rows), length), dtype=np.int64)
        for index, row in enumerate(rows):
            size = len(row.ids)
            ids[index, :size] = row.ids
            mask[index, :size] = 1
            types[index, :size] = row.type_ids
        try:
            feeds = dict(zip(INPUTS, (ids, mask, types), strict=True))
            tensors = run_session(self._session, OUTPUTS, feeds, bound=self._bound)
        except Exception as error:  # as above
            raise InferenceError(f"the model {self.bundle.manifest.name} failed on a batch: {error}") from error
        if any(len(tensor) != len(rows) for tensor in tensors):
            raise InferenceError(f"the model {self.bundle.manifest.name} gave another number of rows than it was given")
        return Outputs(*tensors)

    def close(self) -> None:
        """Wait for a run that is under way, and release the weights and the threads. Takes milliseconds."""
        self.executor.submit(self._free).result()
        self.executor.shutdown()

    def _free(self) -> None:
        del self._session

    def _check_tensors(self) -> None:
        """Refuse a model whose tensors differ from the manifest's, or whose batch or token axis has a fixed size."""
        actual = {tensor.name: tensor for tensor in self._session.get_inputs()}
        stated = {tensor.name: tensor for tensor in self.bundle.manifest.inputs.tensors}
        if set(actual) != set(INPUTS) or set(stated) != set(INPUTS):
            raise self._wrong(f"reads {sorted(actual)}, the manifest says {sorted(stated)}, expected {sorted(INPUTS)}")
        for name, tensor in actual.items():
            if (tensor.type, stated[name].dtype) != ("tensor(int64)", "int64"):
                raise self._wrong(f"{name} is {tensor.type}, the manifest says {stated[name].dtype}, expected int64")
            if len(tensor.shape) != 2 or any(isinstance(size, int) for size in tensor.shape):
                raise self._wrong(f"{name} has shape {tensor.shape}; both axes must be free")
            if [size.isdigit() for size in stated[name].shape] != [False, False]:
                raise self._wrong(f"the manifest gives {name} the shape {list(stated[name].shape)}; both must be free")
        missing = set(OUTPUTS) - {tensor.name for tensor in self._session.get_outputs()}
        if missing:
            raise self._wrong(f"has no output {', '.join(sorted(missing))}")

    def _check_runs(self) -> None:
        """Run two shapes, so that a frozen axis shows now."""
        longest = self.bundle.manifest.inputs.max_tokens
        for rows, tokens in ((1, 8), (2, longest)):
            try:
                outputs = self._run_blank(rows, tokens)
            except InferenceError as error:
                raise self._wrong(f"fails on {rows} rows of {tokens} tokens: {error}") from error
            self._check_shapes(outputs, rows)

    def _warm_up(self, limits: Limits) -> int:
        """Run the shapes of batches; how many, as far as time allows."""
        shapes = batch_shapes(limits, self.bundle.manifest.inputs.max_tokens)
        try:
            return warm_up(self._run_blank, shapes, limits.warm_up_seconds)
        except InferenceError as error:
            raise BundleError(
                f"{self.bundle.path / MODEL}: a batch within the limits fails: {error}. Lower --batch-rows or "
                "--batch-tokens."
            ) from error

    def _run_blank(self, rows: int, tokens: int) -> Outputs:
        """Run the model on rows of padding."""
        row = EncodedPair([self.pad_id] * tokens, [0] * tokens, (), text_truncated=False)
        return self.run([row] * rows)

    def _check_shapes(self, outputs: Outputs, rows: int) -> None:
        labels = len(self.bundle.manifest.labels)
        heads = outputs.head_probabilities.shape[1] if outputs.head_probabilities.ndim == 3 else 1
        expected: dict[str, tuple[int, ...]] = dict.fromkeys(OUTPUTS, (rows,))
        expected |= {"logits": (rows, labels), "probabilities": (rows, labels)}
        expected |= {"head_probabilities": (rows, heads, labels)}
        for name, shape in expected.items():
            array: NDArray[Any] = getattr(outputs, name)
            if array.shape != shape or array.dtype != np.float32:
                raise self._wrong(f"gives {name} as {array.dtype} {list(array.shape)}, expected float32 {list(shape)}")

    def _wrong(self, what: str) -> BundleError:
        return BundleError(f"{self.bundle.path / MODEL}: {what}. Rebuild the bundle.")
