"""A plain ONNX file as named tensors in and out, over the Open Inference Protocol."""

import asyncio
import hashlib
import logging
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from groundwire.bundle import MODEL
from groundwire.server.config import Limits, Provider
from groundwire.server.errors import ConfigurationError, InferenceError, InvalidRequestError, ProviderError
from groundwire.server.pace import Pace
from groundwire.server.priorities import requested_priority
from groundwire.server.providers import open_session, run_session, session_options
from groundwire.server.servable import Parameters
from groundwire.server.statistics import Sink, Statistics
from groundwire.server.tensor_batcher import TensorBatcher, Tensors
from groundwire.server.tensors import BYTES, DATATYPES, Array, TensorSpec
from groundwire.server.warm_up import row_counts, warm_up

# ONNX Runtime's names of the datatypes.
_DATATYPES: Mapping[str, str] = {
    "tensor(bool)": "BOOL",
    "tensor(string)": BYTES,
    "tensor(float16)": "FP16",
    "tensor(float)": "FP32",
    "tensor(double)": "FP64",
    **{f"tensor({sign}int{bits})": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}

_log = logging.getLogger("groundwire.server")


class TensorModel:
    """A `Servable` from an ONNX file, or from a folder that holds `model.onnx`. An async context manager.

    Requests are joined along the first axis when that is a batch axis: free, and of one and the same name in all
    inputs and outputs, as exporters write it. Else every request runs alone.

    Args:
        name: name in requests.
        path: file or folder.
        limits: those of `TensorBatcher`, and `warm_up_seconds`, apply.
        provider: which execution provider runs it.
        threads: ONNX Runtime's threads; 0: the cores, shared among the instances.
        sink: told of what `statistics` counts.
        version: what it is served as; empty: the beginning of the file's SHA-256.

    Raises:
        ConfigurationError: the file is missing, is no ONNX model, or has tensors that the protocol has no type for.
        ProviderError: the provider asked for is missing.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        limits: Limits,
        provider: Provider = "auto",
        threads: int = 0,
        sink: Sink | None = None,
        version: str = "",
    ) -> None:
        self.name = name
        self._file = path / MODEL if path.is_dir() else path
        self.limits = limits
        try:
            with self._file.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            # By its path and not its bytes, so that weights in files beside it are found.
            self._session, self.provider, why = open_session(
                str(self._file), session_options(threads, limits.instances), provider
            )
        except OSError as error:
            raise ConfigurationError(
                f"{self._file} can't be read ({error.strerror}); check what --model or --models names"
            ) from error
        except ProviderError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions share no root but this
            raise ConfigurationError(f"{self._file}: ONNX Runtime can't load the model: {error}") from error
        self.version = version or digest[:12]
        self.inputs = tuple(self._spec(tensor) for tensor in self._session.get_inputs())
        self.outputs = tuple(self._spec(tensor) for tensor in self._session.get_outputs())
        tensors = [*self._session.get_inputs(), *self._session.get_outputs()]
        first = {tensor.shape[0] if tensor.shape else 0 for tensor in tensors}
        self._batched = len(first) == 1 and isinstance(first.pop(), str)
        self.max_batch = limits.batch_rows if self._batched else 0
        self.statistics = Statistics(sink, name)
        self._names = [spec.name for spec in self.outputs]
        self._has_strings = any(spec.datatype == BYTES for spec in (*self.inputs, *self.outputs))
        self._bound = self.provider != "cpu" and not self._has_strings
        # On another provider a run waits for its device, and what it takes of the processor says little.
        self._pace = Pace() if self.provider == "cpu" else None
        self.settings: Mapping[str, str] = {"sha256": digest}
        warmed = self._warm_up() if limits.warm_up_seconds else 0
        self._threads = ThreadPoolExecutor(limits.instances, thread_name_prefix=f"onnx-{name}")
        self._batcher: TensorBatcher | None = None
        _log.info(
            "model loaded",
            extra={
                "fields": {
                    "model": name,
                    "version": self.version,
                    "provider": self.provider,
                    "why": why,
                    "batched": self._batched,
                    "instances": limits.instances,
                    "warmed_up": warmed,
                }
            },
        )

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        model: TensorModel = weakref.proxy(self)  # no cycle, so that a model that is unloaded is gone at once

        async def run(inputs: Tensors) -> dict[str, Array]:
            return await loop.run_in_executor(model._threads, model._run, inputs)

        def run_now(inputs: Tensors) -> dict[str, Array] | None:
            return model._run_now(inputs)

        self._batcher = TensorBatcher(run, self.limits, self.statistics, batched=self._batched, run_now=run_now)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._batcher is not None:
            await self._batcher.close()
        # On a thread: to free the weights takes milliseconds, which the event loop has not.
        await asyncio.get_running_loop().run_in_executor(self._threads, self._free)
        self._threads.shutdown()

    async def infer(
        self, inputs: Mapping[str, Array], wanted: Sequence[str], parameters: Parameters, deadline: float | None
    ) -> dict[str, Array]:
        """The `wanted` outputs. Of the parameters `priority` is known.

        Raises:
            InvalidRequestError: inputs differ in their number of rows, a string is not UTF-8, the priority is none, or
                the model refuses their sizes or values.
            QueueFullError, DeadlineExceededError, ShuttingDownError, InferenceError: as `TensorBatcher.infer`.
        """
        if self._batcher is None:
            raise RuntimeError("enter the model first: async with TensorModel(...) as model")
        with self.statistics.request() as record:
            decoded = (
                {name: _to_strings(name, array) for name, array in inputs.items()} if self._has_strings else inputs
            )
            priority = requested_priority(parameters, self.limits)
            record.encode = record.since()
            outputs = await self._batcher.infer(decoded, deadline, record, priority)
            inferred = record.since()
            answer = {name: _to_bytes(outputs[name]) for name in wanted} if self._has_strings else outputs
            record.decide = record.since() - inferred
            return answer

    def _run(self, inputs: Tensors) -> dict[str, Array]:
        started = time.thread_time()
        try:
            return self._run_once(inputs)
        finally:  # a run that fails takes its time too
            if self._pace is not None:
                self._pace.saw(_size(inputs), time.thread_time() - started)

    def _run_once(self, inputs: Tensors) -> dict[str, Array]:
        try:
            found = run_session(self._session, self._names, inputs, bound=self._bound)
        except InvalidArgument as error:  # names, types and ranks were checked: it is about sizes or values
            raise InvalidRequestError("inputs", f"the model {self.name} refused them: {error}") from error
        except Exception as error:  # as above
            raise InferenceError(f"the model {self.name} failed on a batch: {error}") from error
        return dict(zip(self._names, found, strict=True))

    def _run_now(self, inputs: Tensors) -> dict[str, Array] | None:
        """As `_run`, on the event loop; none when inputs of that size have not proved to be quick."""
        return self._run(inputs) if self._pace is not None and self._pace.is_quick(_size(inputs)) else None

    def _warm_up(self) -> int:
        """Run batches of zeros, if nothing but their size is free in the inputs' shapes; how many, as time allows."""
        if not self._batched or any(size < 0 for spec in self.inputs for size in spec.shape[1:]):
            return 0

        def run(rows: int, _size: int) -> None:
            self._run_once({spec.name: _blank(spec, rows) for spec in self.inputs})

        shapes = [(rows, 1) for rows in row_counts(self.limits.batch_rows)]
        try:
            return warm_up(run, shapes, self.limits.warm_up_seconds)
        except (InferenceError, InvalidRequestError) as error:
            # Zeros may be no input that it takes; whether it takes what clients send is theirs to know.
            _log.warning("no warm-up", extra={"fields": {"model": self.name, "error": str(error)}})
            return 0

    def _free(self) -> None:
        del self._session

    def _spec(self, tensor: Any) -> TensorSpec:
        datatype = _DATATYPES.get(tensor.type, "")
        if not datatype:
            raise ConfigurationError(
                f"{self._file}: {tensor.name} is {tensor.type}, for which the Open Inference Protocol has no datatype"
            )
        return TensorSpec(tensor.name, datatype, tuple(size if isinstance(size, int) else -1 for size in tensor.shape))


def _size(inputs: Tensors) -> int:
    return sum([array.nbytes for array in inputs.values()])


def _blank(spec: TensorSpec, rows: int) -> Array:
    """Zeros, or empty strings."""
    shape = (rows, *spec.shape[1:])
    return np.full(shape, "", object) if spec.datatype == BYTES else np.zeros(shape, DATATYPES[spec.datatype][0])


def _to_strings(name: str, array: Array) -> Array:
    """BYTES as the strings that ONNX Runtime takes; other tensors as they are."""
    if array.dtype != np.dtype("O"):
        return array
    try:
        return _objects([item.decode("utf-8") for item in array.flat], array.shape)
    except UnicodeDecodeError as error:
        raise InvalidRequestError(name, "holds an element that is not UTF-8") from error


def _to_bytes(array: Array) -> Array:
    """Strings of ONNX Runtime as BYTES."""
    if array.dtype.kind not in "OU":
        return array
    return _objects([str(item).encode() for item in array.flat], array.shape)


def _objects(items: Sequence[object], shape: tuple[int, ...]) -> Array:
    flat = np.empty(len(items), dtype=object)
    flat[:] = items
    return flat.reshape(shape)
