"""ModelService: which models there are, with manifest and certificate."""

from collections.abc import Mapping

import grpc

from groundwire.server.lifecycle import Gate
from groundwire.server.models import Models
from groundwire.server.rpc import Deadline, unary
from groundwire.v1 import model_pb2

NAME = "groundwire.v1.ModelService"


class ModelService:
    """Answers from the manifests and certificates that were checked at load."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def handlers(self, gate: Gate) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name."""
        return {
            "ListModels": unary(gate, model_pb2.ListModelsRequest, self.list_models),
            "GetModel": unary(gate, model_pb2.GetModelRequest, self.get_model),
        }

    async def list_models(
        self, _request: model_pb2.ListModelsRequest, _deadline: Deadline
    ) -> model_pb2.ListModelsResponse:
        """All models in short, each version that answers, in order of their names."""
        return model_pb2.ListModelsResponse(
            models=[
                model_pb2.ModelSummary(
                    name=model.name,
                    version=model.version,
                    labels=model.pipeline.bundle.manifest.labels,
                    provider=model.provider,
                )
                for model in self._models.all()
            ]
        )

    async def get_model(self, request: model_pb2.GetModelRequest, _deadline: Deadline) -> model_pb2.GetModelResponse:
        """Manifest and certificate of one model.

        Raises:
            InvalidRequestError, ModelNotReadyError, UnknownModelError: as `Models.lease`.
        """
        with self._models.lease(request.name, request.version, "name") as model:
            bundle = model.pipeline.bundle
            return model_pb2.GetModelResponse(
                manifest=bundle.manifest,
                certificate=bundle.certificate,
                provider=model.provider,
                name=model.name,
                version=model.version,
            )
