"""Tensors of the Open Inference Protocol v2: what a model declares, and messages to and from numpy arrays."""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundwire.inference import service_pb2
from groundwire.server.errors import InvalidRequestError, UnsupportedError

# Elements of BYTES are Python bytes in an array of objects.
Array = NDArray[Any]
Request = service_pb2.ModelInferRequest
InputTensor = service_pb2.ModelInferRequest.InferInputTensor

BYTES = "BYTES"
# Of one tensor: each is an object of Python, made and looked at on the event loop.
MOST_STRINGS = 1 << 15
_OBJECT = np.dtype("O")
_LITTLE = sys.byteorder == "little"
LENGTH_BYTES = 4  # before each element of a raw BYTES tensor, little-endian
# Of each datatype: numpy's type, and the field of InferTensorContents, which FP16 lacks.
DATATYPES: Mapping[str, tuple[np.dtype[Any], str]] = {
    "BOOL": (np.dtype("?"), "bool_contents"),
    "INT8": (np.dtype("i1"), "int_contents"),
    "INT16": (np.dtype("<i2"), "int_contents"),
    "INT32": (np.dtype("<i4"), "int_contents"),
    "INT64": (np.dtype("<i8"), "int64_contents"),
    "UINT8": (np.dtype("u1"), "uint_contents"),
    "UINT16": (np.dtype("<u2"), "uint_contents"),
    "UINT32": (np.dtype("<u4"), "uint_contents"),
    "UINT64": (np.dtype("<u8"), "uint64_contents"),
    "FP16": (np.dtype("<f2"), ""),
    "FP32": (np.dtype("<f4"), "fp32_contents"),
    "FP64": (np.dtype("<f8"), "fp64_contents"),
    BYTES: (np.dtype("O"), "bytes_contents"),
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor that a model takes or gives. `shape` includes the batch axis; -1 stands for any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Layout(NamedTuple):
    """A tensor of a request without its content: what its head says, found right."""

    name: str
    datatype: str
    shape: tuple[int, ...]  # in the rank of the spec
    elements: int
    dtype: np.dtype[Any]

    def read(self, content: bytes) -> Array:
        """The tensor whose element of raw_input_contents is `content`.

        Raises:
            InvalidRequestError: it does not hold as many elements as the shape says.
        """
        if self.datatype == BYTES:
            return _objects(_split(self.name, content, self.elements)).reshape(self.shape)
        if len(content) != self.elements * self.dtype.itemsize:
            raise InvalidRequestError(
                self.name,
                f"has {len(content)} bytes; {self.datatype} of shape {list(self.shape)} has "
                f"{self.elements * self.dtype.itemsize}",
            )
        # Any byte but 0 is true, as in Triton; numpy would keep such a byte as it is.
        flat = np.frombuffer(content, np.uint8) != 0 if self.datatype == "BOOL" else np.frombuffer(content, self.dtype)
        return flat.reshape(self.shape)


def lay_out(
    tensors: Sequence[InputTensor], specs: Sequence[TensorSpec], most_rows: int = 0, *, raw: bool
) -> tuple[Layout, ...]:
    """What the heads of a request's tensors say, each of the rank of its spec and, unless that is 0, of at most
    `most_rows` rows. `raw`: the contents come in raw_input_contents.

    A last axis of size 1 may be left out, so a list of texts may be sent as [N] or as [N, 1].

    Raises:
        InvalidRequestError: a tensor is unknown, missing or given twice, or its datatype or shape is wrong.
        UnsupportedError: a tensor lies in shared memory.
    """
    known = {spec.name: spec for spec in specs}
    layouts: dict[str, Layout] = {}
    for tensor in tensors:
        name = tensor.name
        if name not in known:
            raise InvalidRequestError(name[:128], f"is no input of this model; it takes {', '.join(known)}")
        if name in layouts:
            raise InvalidRequestError(name, "is given twice")
        if "shared_memory_region" in tensor.parameters:
            raise UnsupportedError(f"{name}: shared memory is not offered; send the tensor in the request")
        if raw and tensor.HasField("contents"):
            raise InvalidRequestError(name, "has contents and raw_input_contents; send one of them")
        shape = _check_shape(tensor, known[name])
        count = math.prod(shape)
        if most_rows and shape and shape[0] > most_rows:  # known before what may be many elements is read
            raise InvalidRequestError(name, f"has more than {most_rows} rows; send fewer")
        if tensor.datatype == BYTES and count > MOST_STRINGS:
            raise InvalidRequestError(name, f"has more than {MOST_STRINGS} elements of {BYTES}; send fewer at once")
        layouts[name] = Layout(name, tensor.datatype, shape, count, DATATYPES[tensor.datatype][0])
    missing = known.keys() - layouts.keys()
    if missing:
        raise InvalidRequestError(min(missing), "is missing")
    return tuple(layouts.values())


def read_raw(layouts: Sequence[Layout], contents: Sequence[bytes]) -> dict[str, Array]:
    """The tensors of a request by name, `contents` being its raw_input_contents.

    Raises:
        InvalidRequestError: there are not as many contents as tensors, or as `Layout.read`.
    """
    if len(contents) != len(layouts):
        raise InvalidRequestError(
            "raw_input_contents",
            f"holds {len(contents)} tensors, and inputs names {len(layouts)}; send one for each",
        )
    return {layout.name: layout.read(content) for layout, content in zip(layouts, contents, strict=True)}


def decode_inputs(request: Request, specs: Sequence[TensorSpec], most_rows: int = 0) -> dict[str, Array]:
    """The inputs of a request by name.

    Raises:
        InvalidRequestError, UnsupportedError: as `lay_out`; or a content is wrong.
    """
    raw = request.raw_input_contents
    layouts = lay_out(request.inputs, specs, most_rows, raw=bool(raw))
    if raw:
        return read_raw(layouts, raw)
    pairs = zip(layouts, request.inputs, strict=True)
    return {layout.name: _typed(tensor).reshape(layout.shape) for layout, tensor in pairs}


def encode(array: Array) -> bytes:
    """An array as an element of raw_output_contents."""
    if array.dtype != _OBJECT:
        return (array if _LITTLE else array.astype(array.dtype.newbyteorder("<"))).tobytes()
    return b"".join(len(item).to_bytes(LENGTH_BYTES, "little") + item for item in array.flat)


def _check_shape(tensor: InputTensor, spec: TensorSpec) -> tuple[int, ...]:
    """The tensor's shape in the rank of `spec`."""
    if tensor.datatype != spec.datatype:
        raise InvalidRequestError(spec.name, f"has datatype {tensor.datatype[:32]!r}; it must be {spec.datatype}")
    shape = tuple(tensor.shape)
    full = (*shape, 1) if len(shape) + 1 == len(spec.shape) and spec.shape[-1] == 1 else shape
    fits = len(full) == len(spec.shape) and all(
        size > 0 and wanted in {-1, size} for size, wanted in zip(full, spec.shape, strict=True)
    )
    if not fits:
        raise InvalidRequestError(
            spec.name, f"has shape {list(shape[:16])}; it must be {list(spec.shape)}, -1 any size"
        )
    return full


def _split(name: str, content: bytes, count: int) -> list[bytes]:
    """The elements of a raw BYTES tensor."""
    items: list[bytes] = []
    at = 0
    while at < len(content) and len(items) <= count:
        start = at + LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "little")
        items.append(content[start:at])
    if at != len(content) or len(items) != count:
        raise InvalidRequestError(
            name,
            f"does not hold {count} elements, each after its length in {LENGTH_BYTES} little-endian bytes, and no more",
        )
    return items


def _typed(tensor: InputTensor) -> Array:
    """The flat elements of a tensor in `contents`."""
    dtype, field = DATATYPES[tensor.datatype]
    if not field:
        raise InvalidRequestError(tensor.name, f"{tensor.datatype} has no typed contents; use raw_input_contents")
    filled = [given.name for given, _ in tensor.contents.ListFields()]
    count = math.prod(tensor.shape)
    if filled and filled != [field]:
        raise InvalidRequestError(tensor.name, f"has {', '.join(filled)}; {tensor.datatype} takes {field} alone")
    values = getattr(tensor.contents, field)
    if len(values) != count:
        raise InvalidRequestError(tensor.name, f"has {len(values)} elements; shape {list(tensor.shape)} has {count}")
    if tensor.datatype == BYTES:
        return _objects(list(values))
    wide = (
        np.fromiter(values, np.int64 if field == "int_contents" else np.uint32, count) if dtype.itemsize < 4 else None
    )
    if wide is not None and dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if count and not bounds.min <= wide.min() <= wide.max() <= bounds.max:
            raise InvalidRequestError(tensor.name, f"has an element outside {bounds.min} to {bounds.max}")
    return np.fromiter(values, dtype, count) if wide is None else wide.astype(dtype)


def _objects(items: list[bytes]) -> Array:
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array
