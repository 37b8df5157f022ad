"""GRPCInferenceService: the Open Inference Protocol v2 in Triton's dialect.

Specification: https://github.com/kserve/open-inference-protocol, with the extensions of Triton Inference Server
(model configuration, statistics, model repository, trace, logging). Shared memory is not offered, nor advertised.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from groundwire import __version__
from groundwire.inference import service_pb2 as pb
from groundwire.server.catalog import Catalog
from groundwire.server.config import MAX_ID, Limits
from groundwire.server.errors import ModelNotReadyError, UnknownModelError, UnsupportedError
from groundwire.server.exchange import Exchange
from groundwire.server.lifecycle import Gate
from groundwire.server.model_description import (
    EXTENSIONS,
    REPOSITORY_EXTENSION,
    model_config,
    model_metadata,
    model_statistics,
)
from groundwire.server.rpc import Deadline, parse, stream, unary
from groundwire.server.servable import Servable
from groundwire.server.service_repository import RepositoryService
from groundwire.server.status import to_status
from groundwire.server.streams import answer_all
from groundwire.server.validate import check_id

NAME = "inference.GRPCInferenceService"

_SHARED_MEMORY = tuple(
    f"{kind}SharedMemory{method}" for kind in ("System", "Cuda") for method in ("Status", "Register", "Unregister")
)
_TRACE_SETTINGS = {"trace_level": "OFF", "trace_rate": "0", "trace_count": "0", "log_frequency": "0", "trace_file": ""}
_LOG_SETTINGS: Mapping[str, dict[str, Any]] = {
    "log_info": {"bool_param": True},
    "log_warning": {"bool_param": True},
    "log_error": {"bool_param": True},
    "log_verbose_level": {"uint32_param": 0},
    "log_format": {"string_param": "json"},
}


class InferenceService:
    """Runs and describes models as tensors.

    Args:
        catalog: the models that answer.
        repository: answers what concerns the models as a whole.
        limits: `stream_in_flight` applies here; the models keep the others.
        gate: the way in.
    """

    def __init__(self, catalog: Catalog, repository: RepositoryService, limits: Limits, gate: Gate) -> None:
        self._catalog = catalog
        self._repository = repository
        self._limits = limits
        self._gate = gate
        self._exchanges: WeakKeyDictionary[Servable, Exchange] = WeakKeyDictionary()

    def handlers(self) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name."""
        gate = self._gate
        return {
            # Asked by probes, which must get an answer and not a refusal while the server drains.
            "ServerLive": unary(None, pb.ServerLiveRequest, self._server_live),
            "ServerReady": unary(None, pb.ServerReadyRequest, self._server_ready),
            "ModelReady": unary(None, pb.ModelReadyRequest, self._model_ready),
            "ServerMetadata": unary(gate, pb.ServerMetadataRequest, self._server_metadata),
            "ModelMetadata": unary(gate, pb.ModelMetadataRequest, self._model_metadata),
            "ModelInfer": unary(gate, pb.ModelInferRequest, self.infer),
            "ModelStreamInfer": stream(gate, self._infer_stream),
            "ModelConfig": unary(gate, pb.ModelConfigRequest, self._model_config),
            "ModelStatistics": unary(gate, pb.ModelStatisticsRequest, self._model_statistics),
            "TraceSetting": unary(gate, pb.TraceSettingRequest, _trace_setting),
            "LogSettings": unary(gate, pb.LogSettingsRequest, _log_settings),
            **self._repository.handlers(gate),
            **{name: unary(gate, getattr(pb, f"{name}Request"), _no_shared_memory) for name in _SHARED_MEMORY},
        }

    async def infer(self, request: pb.ModelInferRequest, deadline: Deadline) -> pb.ModelInferResponse:
        """Run a model on the tensors of a request.

        Raises:
            UnknownModelError, ModelNotReadyError: no model of that name and version answers now.
            InvalidRequestError, UnsupportedError: as `Exchange.read`.
            GroundwireError: as `Servable.infer`.
        """
        check_id(request.id, "id")
        with self._catalog.lease(request.model_name, request.model_version) as model:
            return await self._infer(model, request, deadline)

    async def _infer(self, model: Servable, request: pb.ModelInferRequest, deadline: Deadline) -> pb.ModelInferResponse:
        exchange = self._exchanges.get(model)
        if exchange is None:
            exchange = self._exchanges[model] = Exchange(model)
        wanted, inputs = exchange.read(request)
        arrays = await model.infer(inputs, wanted, request.parameters, _earliest(deadline, request))
        return exchange.answer(request.id, wanted, arrays)

    def _infer_stream(
        self, contents: AsyncIterator[bytes], deadline: Deadline
    ) -> AsyncIterator[pb.ModelStreamInferResponse]:
        """Answer each message of a stream, in the order of the messages; see `answer_all`."""

        async def answer(content: bytes) -> pb.ModelStreamInferResponse:
            request = pb.ModelInferRequest()
            try:
                request = parse(pb.ModelInferRequest, content)
                response = await self.infer(request, deadline)
            except Exception as error:  # `to_status` logs what is a bug; the stream goes on
                failed = pb.ModelInferResponse(id=request.id[:MAX_ID], model_name=request.model_name[:MAX_ID])
                return pb.ModelStreamInferResponse(error_message=to_status(error).message, infer_response=failed)
            response.parameters["triton_final_response"].bool_param = True
            return pb.ModelStreamInferResponse(infer_response=response)

        return answer_all(contents, answer, self._gate, in_flight=self._limits.stream_in_flight, ordered=True)

    async def _server_live(self, _request: pb.ServerLiveRequest, _deadline: Deadline) -> pb.ServerLiveResponse:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: pb.ServerReadyRequest, _deadline: Deadline) -> pb.ServerReadyResponse:
        return pb.ServerReadyResponse(ready=not self._gate.closing.is_set())

    async def _model_ready(self, request: pb.ModelReadyRequest, _deadline: Deadline) -> pb.ModelReadyResponse:
        try:
            self._catalog.get(request.name, request.version)
        except (UnknownModelError, ModelNotReadyError):
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=not self._gate.closing.is_set())

    async def _server_metadata(
        self, _request: pb.ServerMetadataRequest, _deadline: Deadline
    ) -> pb.ServerMetadataResponse:
        extensions = EXTENSIONS + ((REPOSITORY_EXTENSION,) if self._repository.offered else ())
        return pb.ServerMetadataResponse(name="groundwire", version=__version__, extensions=extensions)

    async def _model_metadata(self, request: pb.ModelMetadataRequest, _deadline: Deadline) -> pb.ModelMetadataResponse:
        model = self._catalog.get(request.name, request.version)
        return model_metadata(model, self._catalog.versions(model.name))

    async def _model_config(self, request: pb.ModelConfigRequest, _deadline: Deadline) -> pb.ModelConfigResponse:
        model = self._catalog.get(request.name, request.version)
        latest = 1 if self._catalog.is_fixed(model.name) else self._repository.versions
        return pb.ModelConfigResponse(config=model_config(model, latest))

    async def _model_statistics(
        self, request: pb.ModelStatisticsRequest, _deadline: Deadline
    ) -> pb.ModelStatisticsResponse:
        models = self._catalog.all()
        if request.name:
            one = self._catalog.get(request.name, request.version)
            models = [one] if request.version else [model for model in models if model.name == one.name]
        return pb.ModelStatisticsResponse(model_stats=[model_statistics(model) for model in models])


def _earliest(deadline: Deadline, request: pb.ModelInferRequest) -> Deadline:
    """The call's deadline, or the parameter `timeout`, microseconds, if that ends first."""
    timeout = request.parameters["timeout"].int64_param if "timeout" in request.parameters else 0
    if timeout <= 0:
        return deadline
    end = asyncio.get_running_loop().time() + timeout / 1e6
    return end if deadline is None else min(end, deadline)


async def _no_shared_memory(_request: Any, _deadline: Deadline) -> Any:
    raise UnsupportedError("shared memory is not offered; send tensors in the requests")


async def _trace_setting(request: pb.TraceSettingRequest, _deadline: Deadline) -> pb.TraceSettingResponse:
    if request.settings:
        raise UnsupportedError("tracing can't be set by clients")
    response = pb.TraceSettingResponse()
    for name, value in _TRACE_SETTINGS.items():
        response.settings[name].value.append(value)
    return response


async def _log_settings(request: pb.LogSettingsRequest, _deadline: Deadline) -> pb.LogSettingsResponse:
    if request.settings:
        raise UnsupportedError("logging can't be set by clients")
    values = {name: pb.LogSettingsResponse.SettingValue(**value) for name, value in _LOG_SETTINGS.items()}
    return pb.LogSettingsResponse(settings=values)
