"""What goes in and out of one model over the Open Inference Protocol: requests to arrays, and arrays to answers."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from groundwire.inference import service_pb2
from groundwire.server.errors import InvalidRequestError, UnsupportedError
from groundwire.server.servable import Servable
from groundwire.server.tensors import Array, Layout, decode_inputs, encode, lay_out, read_raw

Key = TypeVar("Key")
Value = TypeVar("Value")
_MOST_KEPT, _LONGEST_HEAD = 256, 512  # of one model; bytes


class _Plan(NamedTuple):
    """What a request asks for, and how its contents are read."""

    wanted: tuple[str, ...]
    layouts: tuple[Layout, ...]


class Exchange:
    """Reads the requests of a model and makes its answers.

    Clients send the same names, datatypes and shapes over and over, and to look at them takes longer than all else that
    a small tensor needs. So what was found right in one request is not looked at again in the next, and of an answer
    only the numbers are filled in.
    """

    def __init__(self, model: Servable) -> None:
        self._name, self._version = model.name, model.version
        self._inputs, self._most_rows = model.inputs, model.max_batch
        self._outputs = {spec.name: spec for spec in model.outputs}
        self._plans: dict[bytes, _Plan] = {}  # by all of a request but its id and contents
        self._begun: dict[tuple[Any, ...], bytes] = {}

    def read(self, request: service_pb2.ModelInferRequest) -> tuple[tuple[str, ...], dict[str, Array]]:
        """The outputs that a request asks for, none given meaning all, and its inputs by name.

        Raw contents are taken out of the request.

        Raises:
            InvalidRequestError, UnsupportedError: as `decode_inputs`; an output is not one of the model's, or shall go
                to shared memory.
        """
        contents = list(request.raw_input_contents)
        if not contents:
            return self._wanted(request), decode_inputs(request, self._inputs, self._most_rows)
        name = request.id
        request.ClearField("raw_input_contents")
        request.ClearField("id")
        head = request.SerializeToString()
        request.id = name
        plan = self._plans.get(head)
        if plan is None:
            layouts = lay_out(request.inputs, self._inputs, self._most_rows, raw=True)
            plan = _Plan(self._wanted(request), layouts)
            if len(head) <= _LONGEST_HEAD:
                _keep(self._plans, head, plan)
        return plan.wanted, read_raw(plan.layouts, contents)

    def answer(self, name: str, wanted: tuple[str, ...], arrays: Mapping[str, Array]) -> service_pb2.ModelInferResponse:
        """The response with the outputs `wanted`; `name` is the id of the request."""
        key = (wanted, *[arrays[output].shape for output in wanted])
        begun = self._begun.get(key)
        if begun is None:
            made = service_pb2.ModelInferResponse(model_name=self._name, model_version=self._version)
            for output in wanted:
                made.outputs.add(name=output, datatype=self._outputs[output].datatype, shape=arrays[output].shape)
            begun = made.SerializeToString()
            _keep(self._begun, key, begun)
        # To read one back is quicker than to fill it in.
        response = service_pb2.ModelInferResponse.FromString(begun)
        if name:
            response.id = name
        response.raw_output_contents.extend([encode(arrays[output]) for output in wanted])
        return response

    def _wanted(self, request: service_pb2.ModelInferRequest) -> tuple[str, ...]:
        wanted: dict[str, None] = {}
        for output in request.outputs:
            name = output.name
            if name not in self._outputs:
                held = ", ".join(self._outputs)
                raise InvalidRequestError(name[:128], f"is no output of this model; it gives {held}")
            if "shared_memory_region" in output.parameters:
                raise UnsupportedError(f"{name}: shared memory is not offered; outputs come in the response")
            wanted[name] = None
        return tuple(wanted or self._outputs)


def _keep(kept: dict[Key, Value], key: Key, value: Value) -> None:
    """Remember a value, and not ever more of them: clients choose sizes and outputs."""
    if len(kept) >= _MOST_KEPT:
        kept.clear()
    kept[key] = value
