"""Both kinds of work in KServe: kserve_server.py GRPC_PORT HTTP_PORT."""

import sys

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from work import WORK


class Served(Model):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._work = WORK[name]()
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        found = self._work(payload.inputs[0].as_numpy())
        output = InferOutput(self._work.output, list(found.shape), "FP32")
        output.set_data_from_numpy(found, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


grpc_port, http_port = map(int, sys.argv[1:3])
ModelServer(grpc_port=grpc_port, http_port=http_port, workers=1, access_log_format=None).start(list(map(Served, WORK)))
