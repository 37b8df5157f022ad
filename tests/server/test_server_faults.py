"""Faults under load: killed workers, clients that vanish, readers that do not read, requests that poison a batch.

Every answer is compared with that of the model asked directly.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from processes import ServeProcess
from serving import TEXTS, Direct, only_pipeline, until
from test_server_tensors import arrays, request

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from drain_runs import drain_runs
from small_server import LOOKUP, TABLE, write_lookup

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2_grpc
from groundwire.server.app import Server
from groundwire.server.client import AsyncClient, RemoteError
from groundwire.server.config import CARRIERS, ServerConfig
from groundwire.server.tensor_batcher import Tensors
from groundwire.v1 import prediction_pb2

OWN = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own, which the kernel gives to any worker
CLIENTS = 12


def is_right(direct: Direct, text: str, prediction: prediction_pb2.Prediction) -> bool:
    expected = direct(text)["probabilities"]
    return np.allclose([score.probability for score in prediction.scores], expected, atol=1e-6)


@pytest.mark.parametrize("transport", CARRIERS)
def test_sigterm_under_mixed_load_loses_nothing(transport: str) -> None:
    for run in drain_runs(2, transport=transport):
        assert run.ok, run
        assert run.answered > CLIENTS


@pytest.mark.parametrize("transport", CARRIERS)
async def test_a_worker_killed_under_load_loses_only_what_it_held(
    tiny: Bundle, graph: Path, direct: Direct, transport: str
) -> None:
    """A call of the dead worker ends with UNAVAILABLE, and its client is answered when it asks again."""
    with ServeProcess(tiny.path, graph, "--workers", "2", "--transport", transport) as server:
        victim, _ = (event["worker"] for event in server.wait_for("worker ready", 2))
        answered, broken = [0] * CLIENTS, [0] * CLIENTS
        stop = asyncio.Event()

        async def ask(number: int) -> None:
            rng = random.Random(number)
            # A connection for each call: the kernel gives both workers some of them.
            while not stop.is_set():
                texts = [f"{rng.choice(TEXTS)} {number}" for _ in range(rng.randint(1, 8))]
                request_ = prediction_pb2.PredictRequest(inputs=[prediction_pb2.PredictInput(text=t) for t in texts])
                async with grpc.aio.insecure_channel(server.address, OWN) as channel:
                    predict = channel.unary_unary(
                        "/groundwire.v1.PredictionService/Predict",
                        prediction_pb2.PredictRequest.SerializeToString,
                        prediction_pb2.PredictResponse.FromString,
                    )
                    try:
                        response = await predict(request_, timeout=60)
                    except grpc.aio.AioRpcError as error:
                        assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # noqa: PT017 - as welcome
                        broken[number] += 1
                        continue
                assert len(response.predictions) == len(texts)
                assert all(is_right(direct, t, p) for t, p in zip(texts, response.predictions, strict=True))
                answered[number] += 1

        tasks = [asyncio.create_task(ask(number)) for number in range(CLIENTS)]

        async def more() -> None:
            before = list(answered)
            await until(
                lambda: (
                    all(a > b + 2 for a, b in zip(answered, before, strict=True)) or any(task.done() for task in tasks)
                )
            )

        await more()
        assert sum(broken) == 0
        os.kill(victim, signal.SIGKILL)
        await asyncio.to_thread(server.wait_for, "worker died")
        # Now its sockets are closed. What each client still waits for may have been its, and nothing that comes after.
        noticed = sum(broken)
        await more()
        assert sum(broken) - noticed <= CLIENTS
        await asyncio.to_thread(server.wait_for, "worker ready", 3)
        before = sum(broken)
        await more()
        assert sum(broken) == before
        stop.set()
        await asyncio.gather(*tasks)
        server.terminate()
        assert await asyncio.to_thread(server.wait) == 0
        assert not server.events("bug")


# Sends what it was told and waits for answers that never come, until it is killed.
VANISHING = """
import sys
import grpc
from groundwire.v1 import prediction_pb2 as pb
address, kind = sys.argv[1:]
channel = grpc.insecure_channel(address)
item = pb.PredictInput(text="Paris is the capital of France.")
if kind == "unary":
    call = channel.unary_unary("/groundwire.v1.PredictionService/Predict")
    futures = [call.future(pb.PredictRequest(inputs=[item] * 8).SerializeToString()) for _ in range(4)]
else:
    def ask():
        for number in range(16):
            yield pb.PredictStreamRequest(id=str(number), input=item).SerializeToString()
        import time
        time.sleep(600)
    futures = [channel.stream_stream("/groundwire.v1.PredictionService/PredictStream")(ask())]
print("sent", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(("kind", "calls", "rows"), [("unary", 4, 32), ("stream", 1, 16)])
async def test_what_a_killed_client_left_behind_is_dropped(
    config: ServerConfig, direct: Direct, kind: str, calls: int, rows: int
) -> None:
    """The process dies, so no RST_STREAM is sent: the connection just ends."""
    async with Server(config) as server, AsyncClient(server.address) as client:
        pipeline = only_pipeline(server)
        gate, started, real, ran = threading.Event(), threading.Event(), pipeline.runtime.run, []

        def held(batch):
            started.set()
            assert gate.wait(60)
            ran.append(len(batch))
            return real(batch)

        pipeline.runtime.run = held  # the real one behind a gate
        first = asyncio.create_task(client.predict([TEXTS[0]]))
        await until(started.is_set)
        command = [sys.executable, "-c", VANISHING, server.address, kind]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ)
        )
        try:
            await until(lambda: server.gate.in_flight == 1 + calls and len(pipeline.batcher) == rows)
        finally:
            process.kill()
            await process.wait()
        await until(lambda: server.gate.in_flight == 1)
        gate.set()
        [answer] = (await first).predictions
        assert is_right(direct, TEXTS[0], answer)
        [answer] = (await client.predict([TEXTS[1]])).predictions
        assert is_right(direct, TEXTS[1], answer)
        await until(lambda: server.gate.in_flight == 0)
        assert len(pipeline.batcher) == 0
        assert ran == [1, 1]


async def test_a_reader_that_does_not_read_is_not_read_from(config: ServerConfig, direct: Direct) -> None:
    """The server answers only what it can send, so its memory stays; others are served; nothing is lost at last."""
    messages = 3_000
    text = TEXTS[0] + " x" * 500  # an answer holds the mentions and the evidence, some 2 kB
    # A field that nobody knows, of 8 kB: all messages are far more than the windows that gRPC widens under load.
    weight = b"\xfa\x7f\x80\x40" + bytes(8192)
    async with Server(config) as server, AsyncClient(server.address) as other:
        pipeline = only_pipeline(server)
        original, read = pipeline.answer, 0

        async def answer(inputs, options, deadline):
            nonlocal read
            read += inputs[0].text == text
            return await original(inputs, options, deadline)

        pipeline.answer = answer
        # gRPC's client would widen its window by what it measures, and take megabytes that nobody reads.
        narrow = (*OWN, ("grpc.http2.bdp_probe", 0))
        async with grpc.aio.insecure_channel(server.address, narrow) as channel:
            call = channel.stream_stream("/groundwire.v1.PredictionService/PredictStream")()

            async def write() -> None:
                item = prediction_pb2.PredictInput(text=text)
                for number in range(messages):
                    message = prediction_pb2.PredictStreamRequest(id=str(number), input=item)
                    await call.write(message.SerializeToString() + weight)
                await call.done_writing()

            writing = asyncio.create_task(write())
            # The others go on, until nothing more was read of the slow one for many of their calls.
            still = before = 0
            while still < 100:
                [prediction] = (await other.predict([TEXTS[1]])).predictions
                assert is_right(direct, TEXTS[1], prediction)
                still = still + 1 if read == before and read else 0
                before = read
            # As many as may be in flight, and those whose answers lie in the windows of HTTP/2.
            assert read < messages / 4, read
            assert not writing.done()
            answered = set()
            async for content in call:
                response = prediction_pb2.PredictStreamResponse.FromString(content)
                assert is_right(direct, text, response.prediction)
                answered.add(int(response.id))
            await writing
            assert answered == set(range(messages))
        await until(lambda: server.gate.in_flight == 0)


async def test_a_request_that_the_model_refuses_spoils_no_other(tmp_path: Path) -> None:
    """They meet in one batch, which the model fails on as a whole."""
    write_lookup(tmp_path / "lookup.onnx")
    config = ServerConfig((), None, "127.0.0.1:0", "cpu", 1, models=((LOOKUP, tmp_path / "lookup.onnx"),))
    good, bad = np.array([[1], [2]], np.int64), np.array([[1_000]], np.int64)
    async with Server(config) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        model = server._repository._catalog.get(LOOKUP, "")
        gate, started, real, ran = threading.Event(), threading.Event(), model._run, []

        def held(inputs: Tensors):
            started.set()
            assert gate.wait(60)
            ran.append(len(inputs["x"]))
            return real(inputs)

        model._run = held  # the real one behind a gate
        first = asyncio.ensure_future(stub.ModelInfer(request(LOOKUP, x=good)))
        await until(started.is_set)
        calls = [asyncio.ensure_future(stub.ModelInfer(request(LOOKUP, x=x))) for x in (good, bad, good + 1)]
        await until(lambda: model._batcher._waiting == 5)
        gate.set()
        answers = await asyncio.gather(first, *calls, return_exceptions=True)
        assert isinstance(answers[2], grpc.aio.AioRpcError)
        assert answers[2].code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "out of data bounds" in answers[2].details()
        for asked, response in ((good, answers[0]), (good, answers[1]), (good + 1, answers[3])):
            np.testing.assert_array_equal(arrays(response)["y"], TABLE[asked])
        assert (ran[:2], sorted(ran[2:])) == ([2, 5], [1, 2, 2])  # together, then each alone


async def test_a_client_cancelled_in_the_middle_of_a_stream_leaves_the_queue_empty(config: ServerConfig) -> None:
    async def ask() -> AsyncIterator[prediction_pb2.PredictStreamRequest]:
        for number in range(40):
            yield prediction_pb2.PredictStreamRequest(
                id=str(number), input=prediction_pb2.PredictInput(text=f"{TEXTS[0]} {number}")
            )

    async with Server(config) as server, AsyncClient(server.address) as client:
        pipeline = only_pipeline(server)
        for leave_after in (1, 2, 7, 20):
            stream = client.predict_stream(ask())
            for _ in range(leave_after):
                await anext(stream)
            await stream.aclose()
        await until(lambda: server.gate.in_flight == 0 and len(pipeline.batcher) == 0)
        with pytest.raises(RemoteError, match="blank"):
            await client.predict([" "])
        assert (await client.predict([TEXTS[0]])).predictions[0].label
