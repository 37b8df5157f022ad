"""What the Open Inference Protocol asks of a model, whatever its kind."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from groundwire.inference import service_pb2
from groundwire.server.config import Limits
from groundwire.server.statistics import Statistics
from groundwire.server.tensors import Array, TensorSpec

# Settings of a request, by name; those that a model does not know are ignored.
Parameters = Mapping[str, service_pb2.InferParameter]


class Servable(Protocol):
    """A model as named tensors in and out."""

    @property
    def name(self) -> str:
        """Name in requests."""

    @property
    def version(self) -> str:
        """The version that is served."""

    @property
    def provider(self) -> str:
        """Execution provider: "cpu", "cuda" or "tensorrt"."""

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """Tensors that a request must hold."""

    @property
    def outputs(self) -> Sequence[TensorSpec]:
        """Tensors that a request may ask for, in the order in which all of them are given."""

    @property
    def max_batch(self) -> int:
        """Most rows of a request along the first axis of every tensor; 0 when there is no batch axis."""

    @property
    def limits(self) -> Limits:
        """How its requests are batched."""

    @property
    def statistics(self) -> Statistics:
        """What it has done so far."""

    @property
    def settings(self) -> Mapping[str, str]:
        """What else a client may want to know of it."""

    async def infer(
        self, inputs: Mapping[str, Array], wanted: Sequence[str], parameters: Parameters, deadline: float | None
    ) -> dict[str, Array]:
        """The `wanted` outputs by name, from all inputs. `deadline` is in the time of the event loop.

        Raises:
            InvalidRequestError, QueueFullError, DeadlineExceededError, ShuttingDownError, InferenceError.
        """
