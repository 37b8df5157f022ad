"""Both kinds of work in Ray Serve, with Triton's messages on its gRPC proxy: ray_server.py GRPC_PORT HTTP_PORT."""

import sys
import time

import numpy as np
import ray
from ray import serve
from ray.serve.config import gRPCOptions
from work import MAX_BATCH, WORK

NAME = "inference.GRPCInferenceService"
SERVICER = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


@serve.deployment(max_ongoing_requests=256, ray_actor_options={"num_cpus": 1})
class Served:
    def __init__(self) -> None:
        from tritonclient.grpc.service_pb2 import ModelInferResponse  # here, because this class travels as a pickle

        self._response = ModelInferResponse
        self._work = {name: kind() for name, kind in WORK.items()}

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def tensor(self, rows: list[np.ndarray]) -> list[np.ndarray]:
        return list(self._work["tensor"](np.stack(rows)))

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0)
    async def text(self, rows: list[bytes]) -> list[np.ndarray]:
        return list(self._work["text"](np.array(rows, object)))

    async def ModelInfer(self, request):  # noqa: N802
        [content] = request.raw_input_contents
        if request.model_name == "text":
            found = await self.text(content[4:])
        else:
            found = await self.tensor(np.frombuffer(content, np.int64))
        work = self._work[request.model_name]
        output = self._response.InferOutputTensor(name=work.output, datatype="FP32", shape=[1, work.labels])
        return self._response(
            model_name=request.model_name, id=request.id, outputs=[output], raw_output_contents=[found.tobytes()]
        )


grpc_port, http_port = map(int, sys.argv[1:3])
ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", _node_ip_address="127.0.0.1")
serve.start(
    http_options={"host": "127.0.0.1", "port": http_port},
    grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=[SERVICER]),
)
serve.run(Served.bind(), name="work", route_prefix="/work")
while True:
    time.sleep(3600)
