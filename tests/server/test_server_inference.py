"""The Open Inference Protocol, called with our own stubs: answers, descriptions, statistics and refusals."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from serving import TEXTS, Direct

from groundwire.bundle import Bundle
from groundwire.inference import model_config_pb2, service_pb2, service_pb2_grpc
from groundwire.server.app import BackgroundServer
from groundwire.server.catalog import Catalog
from groundwire.server.client import Client
from groundwire.server.errors import InvalidRequestError, UnsupportedError
from groundwire.server.exchange import Exchange
from groundwire.server.service_inference import InferenceService
from groundwire.server.service_repository import RepositoryService
from groundwire.server.tensors import DATATYPES, TensorSpec, decode_inputs, encode

Request = service_pb2.ModelInferRequest


@pytest.fixture(scope="module")
def stub(server: BackgroundServer) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def raw(items: list[bytes]) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def request(texts=TEXTS, shape=None, *, typed: bool = False, outputs=(), name: str = "text", **fields) -> Request:
    content = [text.encode() if isinstance(text, str) else text for text in texts]
    message = Request(model_name="tiny", id="7", **fields)
    tensor = message.inputs.add(name=name, datatype="BYTES", shape=shape or [len(texts)])
    if typed:
        tensor.contents.bytes_contents.extend(content)
    else:
        message.raw_input_contents.append(raw(content))
    for output in outputs:
        message.outputs.add(name=output)
    return message


def arrays(response: service_pb2.ModelInferResponse) -> dict[str, np.ndarray]:
    found = {}
    for tensor, content in zip(response.outputs, response.raw_output_contents, strict=True):
        assert not tensor.HasField("contents")
        spec = TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))
        echo = Request(raw_input_contents=[content])
        echo.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        found.update(decode_inputs(echo, [spec]))
    return found


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("shape", [[len(TEXTS)], [len(TEXTS), 1]])
def test_a_text_model_answers_as_over_groundwire_v1(stub, client: Client, direct: Direct, typed: bool, shape) -> None:
    response = stub.ModelInfer(request(shape=shape, typed=typed), timeout=60)
    assert (response.model_name, response.id) == ("tiny", "7")
    found = arrays(response)
    for row, (text, expected) in enumerate(zip(TEXTS, client.predict(TEXTS).predictions, strict=True)):
        assert found["label"][row, 0].decode() == expected.label
        np.testing.assert_allclose(found["probabilities"][row], direct(text)["probabilities"], atol=1e-6)
        np.testing.assert_allclose(found["logits"][row], direct(text)["logits"], atol=1e-5)
        for name in ("entropy", "mutual_information", "energy", "distance"):
            np.testing.assert_allclose(found[name][row, 0], direct(text)[name], atol=1e-5)
        assert found["decision"][row, 0] == (b"accept" if expected.decision == 1 else b"abstain")
        assert bool(found["abstain_reasons"][row, 0]) == bool(expected.abstain_reasons)
        assert found["prediction_set"][row].sum() == len(expected.prediction_set.labels)
        assert all(e.text in found["evidence"][row, 0].decode() for e in expected.evidence)
        assert np.isnan(found["flip_rate"][row, 0])


def test_requested_outputs_and_parameters_are_honoured(stub) -> None:
    message = request(outputs=["entropy", "label", "entropy", "prediction_set", "flip_rate"])
    message.parameters["coverage"].double_param = 0.999
    message.parameters["probes"].int64_param = 4
    message.parameters["unheard_of"].string_param = "x"
    message.inputs[0].parameters["binary_data"].bool_param = True
    response = stub.ModelInfer(message, timeout=60)
    assert [tensor.name for tensor in response.outputs] == ["entropy", "label", "prediction_set", "flip_rate"]
    assert arrays(response)["prediction_set"].sum() > arrays(stub.ModelInfer(request(), timeout=60))["label"].size
    assert not np.isnan(arrays(response)["flip_rate"]).all()


def test_config_and_statistics_agree_with_the_metadata(stub, client: Client, tiny: Bundle) -> None:
    metadata = stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="tiny"), timeout=60)
    config = stub.ModelConfig(service_pb2.ModelConfigRequest(name="tiny"), timeout=60).config
    assert list(metadata.versions) == [tiny.manifest.version]
    assert (config.name, config.platform, config.max_batch_size) == (metadata.name, metadata.platform, 64)
    for stated, tensors in ((config.input, metadata.inputs), (config.output, metadata.outputs)):
        assert [tensor.name for tensor in stated] == [tensor.name for tensor in tensors]
        for one, other in zip(stated, tensors, strict=True):
            assert [-1, *one.dims] == list(other.shape)
            kind = model_config_pb2.DataType.Name(one.data_type)
            assert kind.removeprefix("TYPE_").replace("STRING", "BYTES") == other.datatype
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    response = stub.ModelInfer(request(), timeout=60)
    given = [(t.name, t.datatype, [-1, *t.shape[1:]]) for t in response.outputs]
    assert given == [(t.name, t.datatype, list(t.shape)) for t in metadata.outputs]

    def statistics() -> service_pb2.ModelStatistics:
        [found] = stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="tiny"), timeout=60).model_stats
        return found

    before = statistics()
    for _ in range(3):
        stub.ModelInfer(request(), timeout=60)
    client.predict(TEXTS)  # counts alike
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(request([" "]), timeout=60)
    after = statistics()
    spent, spent_before = after.inference_stats, before.inference_stats
    assert after.inference_count - before.inference_count == 4 * len(TEXTS)
    assert spent.success.count - spent_before.success.count == 4
    assert spent.fail.count - spent_before.fail.count == 1
    assert sum(batch.compute_infer.count for batch in after.batch_stats) == after.execution_count
    assert sum(batch.batch_size * batch.compute_infer.count for batch in after.batch_stats) == after.inference_count
    parts = (spent.queue, spent.compute_input, spent.compute_infer, spent.compute_output)
    assert {part.count for part in parts} == {spent.success.count}
    assert all(part.ns > 0 for part in parts)
    assert sum(part.ns for part in parts) <= spent.success.ns
    assert after.last_inference > before.last_inference > 0


def test_a_stream_answers_in_order_and_outlives_errors(stub) -> None:
    messages = [request([text]) for text in TEXTS] + [request([b"\xff"]), request(TEXTS)]
    for number, message in enumerate(messages):
        message.id = str(number)
    answers = list(stub.ModelStreamInfer(iter(messages), timeout=60))
    assert [answer.infer_response.id for answer in answers] == [str(n) for n in range(len(messages))]
    assert "UTF-8" in answers[-2].error_message
    assert not any(answer.error_message for answer in (*answers[:-2], answers[-1]))
    labels = [arrays(answer.infer_response)["label"][0, 0] for answer in answers[:-2]]
    assert labels == arrays(answers[-1].infer_response)["label"].ravel().tolist()


def broken(**fields) -> Request:
    message = request([TEXTS[0]])
    for name, value in fields.items():
        if name == "raw":
            message.raw_input_contents[:] = value
        elif name == "shape":
            message.inputs[0].shape[:] = value
        else:
            setattr(message.inputs[0], name, value)
    return message


REFUSED = [
    (broken(datatype="FP32"), "text: has datatype"),
    (broken(datatype="STRING"), "text: has datatype"),
    (broken(name="other"), "other: is no input"),
    (broken(shape=[2]), "text: does not hold 2"),
    (broken(shape=[0]), "text: has shape"),
    (broken(shape=[-1]), "text: has shape"),
    (broken(shape=[1, 2]), "text: has shape"),
    (broken(shape=[1, 1, 1]), "text: has shape"),
    (broken(shape=[2**62]), "text: has more than 64"),
    (broken(raw=[b"\x05\x00\x00\x00abc"]), "text: does not hold"),
    (broken(raw=[b"\x05\x00"]), "text: does not hold"),
    (broken(raw=[raw([b"a"]) + b"\x00"]), "text: does not hold"),
    (broken(raw=[raw([b"a"])] * 2), "raw_input_contents: holds 2"),
    (broken(raw=[]), "text: has 0 elements"),
    (request([b"\xff\xfe"]), "text[0]: is not UTF-8"),
    (request([" "]), "inputs[0].text: is blank"),
    (request(["a"] * 65), "text: has more than 64"),
    (request(outputs=["nope"]), "nope: is no output"),
    (Request(model_name="tiny"), "text: is missing"),
]


@pytest.mark.parametrize(("message", "what"), REFUSED, ids=[what for _, what in REFUSED])
def test_a_wrong_tensor_is_refused_by_name(stub, message: Request, what: str) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(message, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details().startswith(what)


def test_what_is_not_offered_says_so(stub) -> None:
    calls = {
        "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
        "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name="x"),
        "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="tiny"),
        "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="tiny"),
        "ModelConfig": service_pb2.ModelConfigRequest(name="tiny", version="9"),
    }
    codes = {}
    for name, message in calls.items():
        with pytest.raises(grpc.RpcError) as refused:
            getattr(stub, name)(message, timeout=60)
        codes[name] = refused.value.code().name
    assert list(codes.values()) == ["UNIMPLEMENTED"] * 2 + ["UNAVAILABLE"] * 2 + ["NOT_FOUND"]
    shared = request()
    shared.inputs[0].parameters["shared_memory_region"].string_param = "x"
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(shared, timeout=60)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "shared" not in str(stub.ServerMetadata(service_pb2.ServerMetadataRequest(), timeout=60).extensions)
    assert stub.TraceSetting(service_pb2.TraceSettingRequest(), timeout=60).settings["trace_level"].value == ["OFF"]
    assert stub.LogSettings(service_pb2.LogSettingsRequest(), timeout=60).settings["log_error"].bool_param


def test_every_method_of_the_protocol_has_a_handler() -> None:
    stated = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert len(stated) == 20
    assert set(InferenceService(Catalog(), RepositoryService(Catalog()), None, None).handlers()) == set(stated)


def test_the_parameter_timeout_ends_a_request(stub) -> None:
    message = request()
    message.parameters["timeout"].int64_param = 1  # microsecond
    with pytest.raises(grpc.RpcError) as late:
        stub.ModelInfer(message, timeout=60)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("datatype", DATATYPES)
def test_each_datatype_reads_back_raw_and_typed(datatype: str) -> None:
    dtype, field = DATATYPES[datatype]
    if datatype == "BYTES":
        array = np.array([[b"", b"a" * 70_000], [b"\x00", "ü".encode()]], dtype=object)
    else:
        array = np.array([[0, 1], [1, 100]]).astype(dtype)
    spec = TensorSpec("x", datatype, (-1, 2))
    message = Request(raw_input_contents=[encode(array)])
    tensor = message.inputs.add(name="x", datatype=datatype, shape=array.shape)
    found = decode_inputs(message, [spec])["x"]
    assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())
    message.ClearField("raw_input_contents")
    if field:
        getattr(tensor.contents, field).extend(array.ravel().tolist())
        assert decode_inputs(message, [spec])["x"].tolist() == array.tolist()
    else:
        with pytest.raises(InvalidRequestError, match="raw_input_contents"):
            decode_inputs(message, [spec])


def test_a_typed_element_out_of_range_is_refused() -> None:
    message = Request()
    message.inputs.add(name="x", datatype="INT8", shape=[1]).contents.int_contents.append(128)
    with pytest.raises(InvalidRequestError, match="outside -128 to 127"):
        decode_inputs(message, [TensorSpec("x", "INT8", (-1,))])


def test_too_many_rows_are_refused_before_they_are_read() -> None:
    message = Request(raw_input_contents=[b"no elements at all"])
    message.inputs.add(name="x", datatype="BYTES", shape=[3, 1])
    specs = [TensorSpec("x", "BYTES", (-1, 1))]
    with pytest.raises(InvalidRequestError, match="more than 2 rows"):
        decode_inputs(message, specs, 2)
    with pytest.raises(InvalidRequestError, match="does not hold 3 elements"):
        decode_inputs(message, specs, 3)


@pytest.mark.parametrize("length", [127, 128, 129, 1000])
def test_names_may_be_long_and_count_whole(length: int) -> None:
    name = "x" * length
    message = Request(raw_input_contents=[b"\1"])
    message.inputs.add(name=name, datatype="INT8", shape=[1])
    assert decode_inputs(message, [TensorSpec(name, "INT8", (-1,))])[name].tolist() == [1]
    with pytest.raises(InvalidRequestError, match="is no input"):
        decode_inputs(message, [TensorSpec(name[:-1], "INT8", (-1,))])


def test_what_was_checked_once_is_read_alike_and_what_changed_is_checked() -> None:
    specs = [TensorSpec("x", "INT64", (-1, 2)), TensorSpec("y", "FP32", (-1, 1)), TensorSpec("b", "BOOL", (-1,))]
    outputs = [TensorSpec("p", "FP32", (-1,)), TensorSpec("q", "FP32", (-1,))]
    model = SimpleNamespace(name="m", version="1", inputs=specs, outputs=outputs, max_batch=400)
    exchange = Exchange(model)

    def message(rows: int) -> Request:
        made = Request()
        for name, datatype, array in (
            ("y", "FP32", np.arange(rows, dtype=np.float32)),
            ("x", "INT64", np.arange(2 * rows).reshape(rows, 2)),
            ("b", "BOOL", np.full(rows, 2, np.uint8)),  # any byte but 0 is true
        ):
            made.inputs.add(name=name, datatype=datatype, shape=array.shape)
            made.raw_input_contents.append(array.tobytes())
        return made

    for rows in (2, 2, 3, 2, 3):
        asked = message(rows)
        asked.id = f"call {rows}"
        wanted, found = exchange.read(asked)
        expected = decode_inputs(message(rows), specs)
        assert (wanted, asked.id) == (("p", "q"), f"call {rows}")
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert (found[name].dtype, found[name].tolist()) == (array.dtype, array.tolist())

    def cut(made: Request) -> None:
        made.raw_input_contents[1] = made.raw_input_contents[1][:-1]

    def share(made: Request) -> None:
        made.inputs[1].parameters["shared_memory_region"].string_param = "r"

    def twice(made: Request) -> None:
        made.inputs[0].CopyFrom(made.inputs[1])
        made.raw_input_contents[0] = made.raw_input_contents[1]

    def both(made: Request) -> None:
        made.inputs[1].contents.int64_contents.extend([0, 1, 2, 3])

    def short(made: Request) -> None:
        del made.raw_input_contents[2]

    def other(made: Request) -> None:
        made.outputs.add(name="x")

    wrongs = ((cut, "bytes"), (share, "shared memory"), (twice, "twice"), (both, "contents"), (short, "2 tensors"))
    for change, error in (*wrongs, (other, "no output")):
        wrong = message(2)
        change(wrong)
        with pytest.raises((InvalidRequestError, UnsupportedError), match=error):
            exchange.read(wrong)
    one = message(2)
    one.outputs.add(name="q")
    assert exchange.read(one)[0] == ("q",)
    for rows in range(1, 400):  # more shapes than are kept
        assert exchange.read(message(rows))[1]["x"].shape == (rows, 2)


async def test_many_clients_get_their_own_answers(server: BackgroundServer, direct: Direct) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def ask(number: int) -> None:
            texts = [f"{TEXTS[(number + i) % len(TEXTS)]} {number}" for i in range(1 + number % 3)]
            response = await stub.ModelInfer(request(texts, outputs=["probabilities"]), timeout=60)
            for text, row in zip(texts, arrays(response)["probabilities"], strict=True):
                np.testing.assert_allclose(row, direct(text)["probabilities"], atol=1e-6)

        await asyncio.gather(*(ask(number) for number in range(40)))
