"""Ask a server of models as Triton's clients do, and expect refusals."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from repositories import WIDTH
from test_server_tensors import arrays, request

from groundwire.inference import service_pb2 as pb
from groundwire.inference import service_pb2_grpc


class Asker:
    """Asks a server as Triton's clients do."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def add(self, name: str, version: str = "") -> tuple[float, str]:
        """What the model adds to 0, and the version that says so."""
        asked = request(name, x=np.zeros((1, WIDTH), np.float32))
        asked.model_version = version
        response = self.stub.ModelInfer(asked, timeout=60)
        return float(arrays(response)["y"][0, 0]), response.model_version

    def index(self, *, ready: bool = False) -> list[tuple[str, str, str]]:
        lines = self.stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), timeout=60).models
        return [(line.name, line.version, line.state) for line in lines]

    def reason(self, name: str) -> str:
        lines = self.stub.RepositoryIndex(pb.RepositoryIndexRequest(), timeout=60).models
        return "; ".join(line.reason for line in lines if line.name == name and line.reason)

    def load(self, name: str) -> None:
        self.stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name), timeout=60)

    def unload(self, name: str) -> None:
        self.stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name), timeout=60)

    def ready(self, name: str, version: str = "") -> bool:
        return self.stub.ModelReady(pb.ModelReadyRequest(name=name, version=version), timeout=60).ready


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as error:
        yield
    assert error.value.code().name == code, error.value.details()
    assert all(word in error.value.details() for word in words), error.value.details()
