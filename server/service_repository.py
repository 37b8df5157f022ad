"""The model repository extension of the Open Inference Protocol: what models there are, load and unload.

Specification: the model repository extension of Triton Inference Server. Models come from the server's own folder only:
parameters that would replace a model's configuration or files are refused.
"""

from collections.abc import Mapping
from typing import Literal, Protocol

import grpc

from groundwire.inference import service_pb2 as pb
from groundwire.server.catalog import Catalog
from groundwire.server.errors import FixedModelsError, InvalidRequestError, UnsupportedError
from groundwire.server.lifecycle import Gate
from groundwire.server.model_control import READY, ModelControl
from groundwire.server.rpc import Deadline, unary

Operation = Literal["load", "unload"]


class Changer(Protocol):
    """Changes a model in every process of the server."""

    async def change(self, operation: Operation, name: str) -> None:
        """As `ModelControl.load` or `ModelControl.unload`, in all processes.

        Raises:
            GroundwireError: as those; ModelLoadError too when it worked here and failed elsewhere.
        """


class LocalChanger:
    """A server of one process."""

    def __init__(self, control: ModelControl) -> None:
        self._control = control

    async def change(self, operation: Operation, name: str) -> None:
        """As `Changer.change`."""
        await (self._control.load(name) if operation == "load" else self._control.unload(name))


class RepositoryService:
    """Answers the three methods; without `control` and `changer` the server has no repository.

    Args:
        catalog: the models that answer.
        control: of the repository.
        changer: how a change reaches all processes.
    """

    def __init__(self, catalog: Catalog, control: ModelControl | None = None, changer: Changer | None = None) -> None:
        self._catalog = catalog
        self._control = control
        self._changer = changer

    @property
    def offered(self) -> bool:
        """Whether clients may load and unload models."""
        return self._control is not None and self._control.config.control == "explicit"

    @property
    def versions(self) -> int:
        """How many versions of a model may answer at once, if it is one of the repository."""
        return self._control.config.versions if self._control else 1

    async def poll(self) -> None:
        """As `ModelControl.poll`, at once."""
        if self._control is not None:
            await self._control.poll()

    def handlers(self, gate: Gate) -> Mapping[str, "grpc.RpcMethodHandler[bytes, bytes]"]:
        """The handler of each method by its name."""
        return {
            "RepositoryIndex": unary(gate, pb.RepositoryIndexRequest, self._index),
            "RepositoryModelLoad": unary(gate, pb.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": unary(gate, pb.RepositoryModelUnloadRequest, self._unload),
        }

    async def _index(self, request: pb.RepositoryIndexRequest, _deadline: Deadline) -> pb.RepositoryIndexResponse:
        _check_repository(request.repository_name)
        line = pb.RepositoryIndexResponse.ModelIndex
        lines = [
            line(name=model.name, version=model.version, state=READY)
            for model in self._catalog.all()
            if self._catalog.is_fixed(model.name)
        ]
        if self._control is not None:
            lines += [
                line(name=one.name, version=one.version, state=one.state, reason=one.reason)
                for one in await self._control.index()
            ]
        lines.sort(key=lambda one: one.name)
        return pb.RepositoryIndexResponse(models=[one for one in lines if not request.ready or one.state == READY])

    async def _load(
        self, request: pb.RepositoryModelLoadRequest, _deadline: Deadline
    ) -> pb.RepositoryModelLoadResponse:
        _check_repository(request.repository_name)
        for name in request.parameters:
            if name == "config" or name.startswith("file:"):
                raise InvalidRequestError(
                    f"parameters.{name[:128]}",
                    "is not taken: a model is loaded as it lies in the server's folder; put it there",
                )
        await self._change("load", request.model_name)
        return pb.RepositoryModelLoadResponse()

    async def _unload(
        self, request: pb.RepositoryModelUnloadRequest, _deadline: Deadline
    ) -> pb.RepositoryModelUnloadResponse:
        _check_repository(request.repository_name)
        await self._change("unload", request.model_name)
        return pb.RepositoryModelUnloadResponse()

    async def _change(self, operation: Operation, name: str) -> None:
        if self._changer is None or self._control is None:
            raise FixedModelsError(
                "models can't be loaded or unloaded while the server runs: it was started without "
                "--models FOLDER --model-control explicit"
            )
        self._control.check(name)  # here already: what is changed in all processes goes through their pipes
        await self._changer.change(operation, name)


def _check_repository(name: str) -> None:
    if name:
        raise UnsupportedError("repositories have no names here: leave repository_name empty")
