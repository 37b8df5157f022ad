"""Clients in Python: `Client` for scripts and the command line, `AsyncClient` for services."""

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from groundwire.server.errors import InvalidRequestError, ServerError
from groundwire.server.messages import Inputs, encodable, message, predict_request, query_request
from groundwire.v1 import (
    knowledge_pb2,
    knowledge_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
)

Response = TypeVar("Response")

_OPTIONS = (("grpc.max_receive_message_length", 64 * 1024 * 1024),)


class RemoteError(ServerError):
    """A server refused or failed a call, or could not be reached.

    `code` is the name of the gRPC status, such as `INVALID_ARGUMENT`. `fields` are the fields at fault, if the server
    named any. `retry_after` is in seconds, if the server gave a hint.
    """

    def __init__(self, target: str, error: grpc.RpcError) -> None:
        code: grpc.StatusCode = error.code()
        details = error.details() or "no details"
        super().__init__(f"{target} answered {code.name}: {details}{_advice(code)}")
        self.code = code.name
        self.fields: list[str] = []
        self.retry_after: float | None = None
        with suppress(DecodeError):  # a proxy may answer too, and its details may be none
            for packed in _rich_details(error):
                if packed.Is(error_details_pb2.BadRequest.DESCRIPTOR):
                    bad = error_details_pb2.BadRequest()
                    packed.Unpack(bad)
                    self.fields = [violation.field for violation in bad.field_violations]
                elif packed.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
                    retry = error_details_pb2.RetryInfo()
                    packed.Unpack(retry)
                    self.retry_after = retry.retry_delay.ToNanoseconds() / 1e9


class Client:
    """A blocking client. A context manager; may be used from several threads.

    Args:
        target: `HOST:PORT`.
        timeout: deadline of each call, in seconds.
        credentials: for a server with TLS: `grpc.ssl_channel_credentials(...)`.
        token: for a server that asks for one.

    Every method raises RemoteError when the call fails, and InvalidRequestError for a text that is not Unicode or a
    number that the protocol can't carry; so does the client itself for `target` and `token`.
    """

    def __init__(
        self,
        target: str,
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        self.target = encodable("target", target)
        self.timeout = timeout
        self._metadata = _authorization(token)
        self._channel = (
            grpc.secure_channel(target, credentials, _OPTIONS)
            if credentials
            else grpc.insecure_channel(target, _OPTIONS)
        )
        # The stubs are typed for grpc.aio, and work on a blocking channel just as well.
        channel: Any = self._channel
        self._prediction: Any = prediction_pb2_grpc.PredictionServiceStub(channel)
        self._knowledge: Any = knowledge_pb2_grpc.KnowledgeServiceStub(channel)
        self._model: Any = model_pb2_grpc.ModelServiceStub(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._channel.close()

    def predict(
        self,
        inputs: Inputs,
        model: str = "",
        options: prediction_pb2.PredictOptions | None = None,
        model_version: str = "",
    ) -> prediction_pb2.PredictResponse:
        """Predict texts, or inputs with ids and entities, at most the server's batch limit."""
        response: prediction_pb2.PredictResponse = self._call(
            self._prediction.Predict, predict_request(inputs, model, options, model_version)
        )
        return response

    def predict_stream(
        self, requests: Iterable[prediction_pb2.PredictStreamRequest]
    ) -> Iterator[prediction_pb2.PredictStreamResponse]:
        """Answers in order of completion. `requests` is consumed in another thread, and there is no deadline."""
        call = self._prediction.PredictStream(iter(requests), metadata=self._metadata)
        try:
            yield from call
        except grpc.RpcError as error:
            raise RemoteError(self.target, error) from error
        finally:
            call.cancel()  # the caller may have left early; does nothing at the end

    def link(self, texts: Sequence[str]) -> knowledge_pb2.LinkResponse:
        """Mentions of each text."""
        response: knowledge_pb2.LinkResponse = self._call(
            self._knowledge.Link, message(knowledge_pb2.LinkRequest, texts=texts)
        )
        return response

    def ground(self, texts: Sequence[str], top_k: int = 0) -> knowledge_pb2.GroundResponse:
        """Mentions and evidence of each text."""
        response: knowledge_pb2.GroundResponse = self._call(
            self._knowledge.Ground, message(knowledge_pb2.GroundRequest, texts=texts, top_k=top_k)
        )
        return response

    def get_graph(self) -> knowledge_pb2.GraphInfo:
        """The graph in numbers."""
        response: knowledge_pb2.GetGraphResponse = self._call(self._knowledge.GetGraph, knowledge_pb2.GetGraphRequest())
        return response.graph

    def query(self, query: str, max_rows: int = 0, timeout_seconds: float = 0.0) -> knowledge_pb2.QueryResponse:
        """The answer to a SPARQL query; 0 means the server's limit."""
        response: knowledge_pb2.QueryResponse = self._call(
            self._knowledge.Query, query_request(query, max_rows, timeout_seconds)
        )
        return response

    def list_models(self) -> list[model_pb2.ModelSummary]:
        """The models of the server."""
        response: model_pb2.ListModelsResponse = self._call(self._model.ListModels, model_pb2.ListModelsRequest())
        return list(response.models)

    def get_model(self, name: str = "", version: str = "") -> model_pb2.GetModelResponse:
        """Manifest and certificate of one model."""
        request = message(model_pb2.GetModelRequest, name=name, version=version)
        response: model_pb2.GetModelResponse = self._call(self._model.GetModel, request)
        return response

    def _call(self, method: Callable[..., Response], request: Message) -> Response:
        try:
            return method(request, timeout=self.timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise RemoteError(self.target, error) from error


class AsyncClient:
    """The same for asyncio. An async context manager, for one event loop. See `Client`."""

    def __init__(
        self,
        target: str,
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        self.target = encodable("target", target)
        self.timeout = timeout
        self._metadata = _authorization(token)
        self._channel = (
            grpc.aio.secure_channel(target, credentials, _OPTIONS)
            if credentials
            else grpc.aio.insecure_channel(target, _OPTIONS)
        )
        self._prediction = prediction_pb2_grpc.PredictionServiceStub(self._channel)
        self._knowledge = knowledge_pb2_grpc.KnowledgeServiceStub(self._channel)
        self._model = model_pb2_grpc.ModelServiceStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def predict(
        self,
        inputs: Inputs,
        model: str = "",
        options: prediction_pb2.PredictOptions | None = None,
        model_version: str = "",
    ) -> prediction_pb2.PredictResponse:
        """Predict texts, or inputs with ids and entities, at most the server's batch limit."""
        request = predict_request(inputs, model, options, model_version)
        return await self._call(self._prediction.Predict(request, timeout=self.timeout, metadata=self._metadata))

    async def predict_stream(
        self, requests: AsyncIterator[prediction_pb2.PredictStreamRequest]
    ) -> AsyncIterator[prediction_pb2.PredictStreamResponse]:
        """Answers in order of completion, without a deadline."""
        call = self._prediction.PredictStream(requests, metadata=self._metadata)
        try:
            async for response in call:
                yield response
        except grpc.RpcError as error:
            raise RemoteError(self.target, error) from error
        finally:
            call.cancel()  # the caller may have left early; does nothing at the end

    async def link(self, texts: Sequence[str]) -> knowledge_pb2.LinkResponse:
        """Mentions of each text."""
        request = message(knowledge_pb2.LinkRequest, texts=texts)
        return await self._call(self._knowledge.Link(request, timeout=self.timeout, metadata=self._metadata))

    async def ground(self, texts: Sequence[str], top_k: int = 0) -> knowledge_pb2.GroundResponse:
        """Mentions and evidence of each text."""
        request = message(knowledge_pb2.GroundRequest, texts=texts, top_k=top_k)
        return await self._call(self._knowledge.Ground(request, timeout=self.timeout, metadata=self._metadata))

    async def get_graph(self) -> knowledge_pb2.GraphInfo:
        """The graph in numbers."""
        request = knowledge_pb2.GetGraphRequest()
        return (
            await self._call(self._knowledge.GetGraph(request, timeout=self.timeout, metadata=self._metadata))
        ).graph

    async def query(self, query: str, max_rows: int = 0, timeout_seconds: float = 0.0) -> knowledge_pb2.QueryResponse:
        """The answer to a SPARQL query; 0 means the server's limit."""
        request = query_request(query, max_rows, timeout_seconds)
        return await self._call(self._knowledge.Query(request, timeout=self.timeout, metadata=self._metadata))

    async def list_models(self) -> list[model_pb2.ModelSummary]:
        """The models of the server."""
        request = model_pb2.ListModelsRequest()
        return list(
            (await self._call(self._model.ListModels(request, timeout=self.timeout, metadata=self._metadata))).models
        )

    async def get_model(self, name: str = "", version: str = "") -> model_pb2.GetModelResponse:
        """Manifest and certificate of one model."""
        request = message(model_pb2.GetModelRequest, name=name, version=version)
        return await self._call(self._model.GetModel(request, timeout=self.timeout, metadata=self._metadata))

    async def _call(self, call: Awaitable[Response]) -> Response:
        try:
            return await call
        except grpc.RpcError as error:
            raise RemoteError(self.target, error) from error


def _authorization(token: str) -> tuple[tuple[str, str], ...]:
    token = token.strip()  # as it stands in a file, with the end of its line
    if not (token.isascii() and token.isprintable()):
        raise InvalidRequestError("token", "holds what no header can carry; tokens are printable ASCII")
    return (("authorization", f"Bearer {token}"),) if token else ()


def _rich_details(error: grpc.RpcError) -> Iterator[Any]:
    metadata: Iterable[Any] = error.trailing_metadata() or ()
    for key, value in metadata:
        if key == rpc_status.GRPC_DETAILS_METADATA_KEY:
            status = rpc_status.status_pb2.Status.FromString(value)
            yield from itertools.chain(status.details)


def _advice(code: grpc.StatusCode) -> str:
    if code is grpc.StatusCode.UNAVAILABLE:
        return ". Is a server running there? Start one with `groundwire serve`."
    return ""
