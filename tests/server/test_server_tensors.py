"""Plain ONNX files over the Open Inference Protocol: batches, shapes, datatypes, and a server without a graph."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper
from processes import ServeProcess

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2, service_pb2_grpc
from groundwire.server.app import BackgroundServer, Server
from groundwire.server.config import Limits, ServerConfig
from groundwire.server.errors import ConfigurationError
from groundwire.server.tensors import DATATYPES, TensorSpec, decode_inputs, encode

INVALID = "INVALID_ARGUMENT"
WEIGHTS = np.random.default_rng(1).normal(size=(3, 2)).astype(np.float32)


def write(path: Path, nodes, inputs: dict, outputs: dict, constants=()) -> Path:
    def infos(tensors: dict) -> list:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in tensors.items()]

    initializers = [numpy_helper.from_array(value, name) for name, value in dict(constants).items()]
    made = helper.make_graph(nodes, "plain", infos(inputs), infos(outputs), initializers)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[str, Path], ...]:
    folder = tmp_path_factory.mktemp("models")
    node, floats = helper.make_node, TensorProto.FLOAT
    (folder / "affine").mkdir()
    write(
        folder / "affine" / "model.onnx",
        [node("MatMul", ["x", "w"], ["m"]), node("Mul", ["m", "scale"], ["y"]), node("ReduceSum", ["y", "one"], ["s"])],
        {"x": (floats, ["batch", 3]), "scale": (floats, ["batch", 1])},
        {"y": (floats, ["batch", 2]), "s": (floats, ["batch", 1])},
        {"w": WEIGHTS, "one": np.array([1], np.int64)},
    )
    axis = {"one": np.array([1], np.int64)}
    write(
        folder / "width.onnx",
        [node("ReduceSum", ["x", "one"], ["s"])],
        {"x": (TensorProto.INT64, ["n", "width"])},
        {"s": (TensorProto.INT64, ["n", 1])},
        axis,
    )
    write(folder / "fixed.onnx", [node("Neg", ["x"], ["y"])], {"x": (floats, [2, 2])}, {"y": (floats, [2, 2])})
    write(
        folder / "echo.onnx",
        [node("Identity", ["x"], ["y"])],
        {"x": (TensorProto.STRING, ["n", 1])},
        {"y": (TensorProto.STRING, ["n", 1])},
    )
    write(  # says that it keeps the first axis, and drops the rows that hold no positive number
        folder / "liar.onnx",
        [
            node("ReduceMax", ["x", "one"], ["highest"], keepdims=0),
            node("Greater", ["highest", "nothing"], ["kept"]),
            node("Compress", ["x", "kept"], ["y"], axis=0),
        ],
        {"x": (floats, ["n", 2])},
        {"y": (floats, ["n", 2])},
        axis | {"nothing": np.array(0, np.float32)},
    )
    names = ("width", "fixed", "echo", "liar")
    return (("affine", folder / "affine"), *((name, folder / f"{name}.onnx") for name in names))


@pytest.fixture(scope="module")
def plain(models) -> ServerConfig:
    return ServerConfig((), None, "127.0.0.1:0", "cpu", 1, models=models, limits=Limits(batch_rows=16, queue_rows=32))


@pytest.fixture(scope="module")
def server(plain: ServerConfig) -> Iterator[BackgroundServer]:
    with BackgroundServer(plain) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server: BackgroundServer) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def request(model: str, **inputs: np.ndarray) -> service_pb2.ModelInferRequest:
    message = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = next(datatype for datatype, (dtype, _) in DATATYPES.items() if dtype == array.dtype)
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        message.raw_input_contents.append(encode(array))
    return message


def arrays(response: service_pb2.ModelInferResponse) -> dict[str, np.ndarray]:
    echo = service_pb2.ModelInferRequest(raw_input_contents=response.raw_output_contents)
    for tensor in response.outputs:
        echo.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    return decode_inputs(echo, [TensorSpec(t.name, t.datatype, tuple(t.shape)) for t in response.outputs])


def affine(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(rows, 3)).astype(np.float32), "scale": rng.normal(size=(rows, 1)).astype(np.float32)}


async def test_requests_share_runs_and_get_their_own_rows(plain: ServerConfig) -> None:
    # A machine that is held up would else give the model each request before the next one comes.
    waiting = replace(plain, limits=replace(plain.limits, batch_delay=1.0))
    async with Server(waiting) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        queries = [affine(1 + seed % 3, seed) for seed in range(15)]
        responses = await asyncio.gather(*(stub.ModelInfer(request("affine", **q), timeout=60) for q in queries))
        for inputs, response in zip(queries, responses, strict=True):
            expected = inputs["x"] @ WEIGHTS * inputs["scale"]
            np.testing.assert_allclose(arrays(response)["y"], expected, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(arrays(response)["s"], expected.sum(1, keepdims=True), rtol=1e-4, atol=1e-5)
        asked = service_pb2.ModelStatisticsRequest(name="affine")
        [counted] = (await stub.ModelStatistics(asked, timeout=60)).model_stats
        rows = sum(len(inputs["x"]) for inputs in queries)
        assert (counted.inference_count, counted.inference_stats.success.count) == (rows, len(queries))
        assert counted.execution_count < len(queries)
        assert max(batch.batch_size for batch in counted.batch_stats) <= 16


def test_shapes_that_differ_do_not_mix(stub) -> None:
    calls = [
        stub.ModelInfer.future(request("width", x=np.full((2, width), width, np.int64)), timeout=60)
        for width in (1, 2, 3, 1, 2, 3)
    ]
    for width, call in zip((1, 2, 3, 1, 2, 3), calls, strict=True):
        assert arrays(call.result())["s"].tolist() == [[width * width]] * 2


def test_a_model_without_a_batch_axis_runs_request_by_request(stub) -> None:
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="fixed"), timeout=60).config
    assert (config.max_batch_size, list(config.input[0].dims)) == (0, [2, 2])
    assert config.WhichOneof("scheduling_choice") is None
    calls = [stub.ModelInfer.future(request("fixed", x=np.full((2, 2), n, np.float32)), timeout=60) for n in range(5)]
    assert [arrays(call.result())["y"][0, 0] for call in calls] == [-n for n in range(5)]


def test_strings_go_through(stub) -> None:
    array = np.array([[b"a"], ["Zürich".encode()], [b""]], dtype=object)
    assert arrays(stub.ModelInfer(request("echo", x=array), timeout=60))["y"].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("message", "code", "what"),
    [
        (request("affine", **affine(2, 0) | {"scale": np.ones((3, 1), np.float32)}), INVALID, "scale: has 3"),
        (request("affine", **affine(17, 0)), INVALID, "x: has more than 16 rows"),
        (request("affine", x=np.ones((1, 3))), INVALID, "x: has datatype 'FP64'"),
        (request("affine", x=np.ones((1, 4), np.float32)), INVALID, "x: has shape [1, 4]"),
        (request("affine", x=np.ones((1, 3), np.float32)), INVALID, "scale: is missing"),
        (request("echo", x=np.array([[b"\xff"]], dtype=object)), INVALID, "x: holds an element"),
        (request("liar", x=np.array([[1, 0], [0, 0]], np.float32)), "INTERNAL", "the model gave y the shape [1, 2]"),
        (request("nope", x=np.ones((2, 2), np.float32)), "NOT_FOUND", "no model is named 'nope'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(stub, message, code: str, what: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message, timeout=60)
    assert (refused.value.code().name, refused.value.details()[: len(what)]) == (code, what)


def test_a_server_of_plain_models_needs_no_graph(server: BackgroundServer, stub) -> None:
    index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=60).models
    assert [model.name for model in index] == ["affine", "echo", "fixed", "liar", "width"]
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        offered = health_pb2.HealthCheckRequest(service="inference.GRPCInferenceService")
        assert health.Check(offered, timeout=60).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as absent:
            health.Check(health_pb2.HealthCheckRequest(service="groundwire.v1.PredictionService"), timeout=60)
        assert absent.value.code() is grpc.StatusCode.NOT_FOUND


def test_models_of_both_kinds_from_the_command_line(tiny: Bundle, graph, models, tmp_path) -> None:
    affine_model = dict(models)["affine"]
    with (
        ServeProcess(tiny.path, graph, "--model", f"plain={affine_model}") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=60).models
        assert [model.name for model in index] == ["plain", "tiny"]
        inputs = affine(2, 5)
        found = arrays(stub.ModelInfer(request("plain", **inputs), timeout=60))
        np.testing.assert_allclose(found["y"], inputs["x"] @ WEIGHTS * inputs["scale"], rtol=1e-4, atol=1e-5)


def test_models_that_cannot_be_served_are_refused_at_the_start(tiny: Bundle, graph, models, tmp_path) -> None:
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"no model")
    some = dict(models)["affine"]
    wrong = {
        "can't be read": ServerConfig((), None, models=(("x", tmp_path / "none.onnx"),)),
        "can't load": ServerConfig((), None, models=(("x", bad),)),
        "both named x": ServerConfig((), None, models=(("x", some), ("x", some))),
        "both named tiny": ServerConfig((tiny.path,), graph, models=(("tiny", some),)),
        "--graph": ServerConfig((tiny.path,), None),
        "--bundle": ServerConfig((), graph),
    }
    for what, config in wrong.items():
        with pytest.raises(ConfigurationError, match=what), BackgroundServer(config):
            pass
