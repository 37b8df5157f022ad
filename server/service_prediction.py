"""PredictionService: one request, or a stream of them answered in order of completion."""

from collections.abc import AsyncIterator, Mapping

import grpc
from google.protobuf import wrappers_pb2
from google.protobuf.message import DecodeError

from groundwire.server.config import MAX_ID, Limits
from groundwire.server.errors import InvalidRequestError
from groundwire.server.lifecycle import Gate
from groundwire.server.models import Models
from groundwire.server.rpc import Deadline, parse, stream, unary
from groundwire.server.status import to_status
from groundwire.server.streams import answer_all
from groundwire.server.validate import check_id, check_input
from groundwire.v1 import prediction_pb2

NAME = "groundwire.v1.PredictionService"


class PredictionService:
    """Hands inputs to the pipeline of the model that they name."""

    def __init__(self, models: Models, limits: Limits, gate: Gate) -> None:
        self._models = models
        self._limits = limits
        self._gate = gate

    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name."""
        return {
            "Predict": unary(self._gate, prediction_pb2.PredictRequest, self.predict),
            "PredictStream": stream(self._gate, self.predict_stream),
        }

    async def predict(
        self, request: prediction_pb2.PredictRequest, deadline: Deadline
    ) -> prediction_pb2.PredictResponse:
        """Predict all inputs of a request, or refuse it whole.

        Raises:
            InvalidRequestError, ModelNotReadyError, UnknownModelError: as `Models.lease`.
            GroundwireError: as `Pipeline.answer`.
        """
        with self._models.lease(request.model, request.model_version, "model") as model:
            response = await model.pipeline.answer(request.inputs, request.options, deadline)
            response.model, response.model_version = model.name, model.version
            return response

    def predict_stream(
        self, contents: AsyncIterator[bytes], deadline: Deadline
    ) -> AsyncIterator[prediction_pb2.PredictStreamResponse]:
        """Answer each message of a stream, at most `stream_in_flight` at once, in order of completion.

        Each message is answered by the version of its model that answers when it comes.

        A client that does not read its answers is not read from either: a slot is free once its answer was sent. When
        the server shuts down, what was read is answered and the stream ends.

        Raises:
            ShuttingDownError: after the last answer, when the client had not ended the stream.
        """
        return answer_all(
            contents,
            lambda content: self._answer(content, deadline),
            self._gate,
            in_flight=self._limits.stream_in_flight,
            ordered=False,
        )

    async def _answer(self, content: bytes, deadline: Deadline) -> prediction_pb2.PredictStreamResponse:
        """Predict one message of a stream; an error becomes the answer."""
        try:
            request = parse(prediction_pb2.PredictStreamRequest, content)
        except InvalidRequestError as error:
            return _failure(_salvage_id(content), error)
        try:
            check_id(request.id, "id")
            check_input(request.input, self._limits, "input")
            with self._models.lease(request.model, request.model_version, "model") as model:
                answer = await model.pipeline.answer([request.input], request.options, deadline)
                return prediction_pb2.PredictStreamResponse(
                    id=request.id,
                    prediction=answer.predictions[0],
                    model=model.name,
                    model_version=model.version,
                    graph_version=answer.graph_version,
                )
        except Exception as error:  # `to_status` logs what is a bug; the stream goes on
            return _failure(request.id, error)


def _failure(request_id: str, error: Exception) -> prediction_pb2.PredictStreamResponse:
    status = to_status(error)
    return prediction_pb2.PredictStreamResponse(
        id=request_id[:MAX_ID], error=prediction_pb2.PredictError(code=status.code, message=status.message)
    )


def _salvage_id(content: bytes) -> str:
    """The id of a message that can't be parsed, so that the client can tell which one it was.

    The id is field 1, and so is the value of a BytesValue, which unlike a string need not be UTF-8.
    """
    try:
        return wrappers_pb2.BytesValue.FromString(content).value.decode("utf-8", "replace")
    except DecodeError:
        return ""
