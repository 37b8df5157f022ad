"""Both kinds of work in PyTriton: pytriton_server.py GRPC_PORT HTTP_PORT METRICS_PORT."""

import sys

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig
from work import MAX_BATCH, WORK

grpc_port, http_port, metrics_port = map(int, sys.argv[1:4])
config = TritonConfig(
    grpc_address="127.0.0.1", grpc_port=grpc_port, http_address="127.0.0.1", http_port=http_port,
    metrics_port=metrics_port, log_verbose=0,
)  # fmt: skip


def bind(triton: Triton, name: str) -> None:
    work = WORK[name]()

    @batch
    def infer(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {work.output: work(inputs[work.input])}

    dtype = bytes if work.datatype == "BYTES" else np.int64
    triton.bind(
        model_name=name,
        infer_func=infer,
        inputs=[Tensor(name=work.input, dtype=dtype, shape=(work.width,))],
        outputs=[Tensor(name=work.output, dtype=np.float32, shape=(work.labels,))],
        config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
    )


with Triton(config=config) as triton:
    for name in WORK:
        bind(triton, name)
    triton.serve()
