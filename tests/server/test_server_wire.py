"""Messages of very many fields are refused before they are parsed, and no other message is."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundwire.inference import service_pb2 as pb
from groundwire.server.app import BackgroundServer
from groundwire.server.errors import InvalidRequestError
from groundwire.server.rpc import parse
from groundwire.server.tensors import MOST_STRINGS, TensorSpec, decode_inputs, encode
from groundwire.server.wire import MOST_FIELDS, has_too_many_fields
from groundwire.v1 import prediction_pb2

INFER = pb.ModelInferRequest
MANY = 1_000_000


def fields(message: object) -> int:
    """The number of fields in a message, as the parser finds them: the oracle."""
    total = 0
    for field, value in message.ListFields():  # type: ignore[attr-defined]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            # Its key and its value, which a map always writes.
            total += sum(3 + fields(item) for item in value.values())
        elif field.message_type is not None:
            total += sum(1 + fields(item) for item in (value if field.is_repeated else [value]))
        elif field.is_repeated and field.type in {field.TYPE_STRING, field.TYPE_BYTES}:
            total += len(value)
        else:
            total += 1
    return total


@st.composite
def requests(draw: st.DrawFn) -> INFER:
    request = INFER(model_name=draw(st.text(max_size=3)), raw_input_contents=draw(st.lists(st.binary(), max_size=4)))
    for _ in range(draw(st.integers(0, 4))):
        tensor = request.inputs.add(name=draw(st.text(max_size=200)), shape=draw(st.lists(st.integers(0, 9))))
        tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=2), max_size=9)))
        tensor.contents.fp32_contents.extend(draw(st.lists(st.floats(width=32), max_size=3)))
        tensor.contents.int64_contents.extend(draw(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=3)))
        for name in draw(st.lists(st.text(max_size=2), max_size=3, unique=True)):
            tensor.parameters[name].double_param = 1.5
    return request


@given(request=requests())
def test_the_count_is_that_of_the_parser(request: INFER) -> None:
    content, count = request.SerializeToString(), fields(request)
    # What is shorter than so many fields could be is not looked at.
    for most in {count - 1, count, count + 1} - {-1}:
        expected = count > most and len(content) > 2 * most
        assert has_too_many_fields(content, INFER, most) == expected


@given(content=st.binary(max_size=300), most=st.integers(0, 20))
def test_any_bytes_at_all_are_looked_at_to_an_end(content: bytes, most: int) -> None:
    assert isinstance(has_too_many_fields(content, INFER, most), bool)


def test_a_number_without_an_end_is_left_to_the_parser() -> None:
    assert not has_too_many_fields(b"\xff" * MANY, INFER)


def typed_strings(count: int) -> bytes:
    tensor = INFER.InferInputTensor(name="text", datatype="BYTES", shape=[count, 1])
    tensor.contents.bytes_contents.extend([b""] * count)
    return INFER(model_name="tiny", inputs=[tensor]).SerializeToString()


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("inference.GRPCInferenceService/ModelInfer", typed_strings(MANY)),
        ("inference.GRPCInferenceService/ModelInfer", b"\x2a\x00" * MANY),  # inputs
        ("inference.GRPCInferenceService/ModelInfer", b"\x22\x00" * MANY),  # parameters
        ("groundwire.v1.PredictionService/Predict", b"\x12\x00" * MANY),  # inputs
        ("groundwire.v1.KnowledgeService/Link", b"\x0a\x00" * MANY),  # texts
    ],
)
def test_a_message_of_a_million_fields_is_refused_unread(server: BackgroundServer, method: str, content: bytes) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/{method}")(content, timeout=60)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"more than {MOST_FIELDS} fields" in refused.value.details()


def test_a_message_of_as_many_fields_as_may_be_is_read() -> None:
    request = prediction_pb2.PredictRequest()
    for _ in range(MOST_FIELDS):
        request.inputs.add()
    content = request.SerializeToString()
    assert len(parse(prediction_pb2.PredictRequest, content).inputs) == MOST_FIELDS
    with pytest.raises(InvalidRequestError, match="fields"):
        parse(prediction_pb2.PredictRequest, content + b"\x12\x00")


def test_strings_of_a_tensor_are_counted_before_they_are_read() -> None:
    specs = [TensorSpec("x", "BYTES", (-1, -1))]
    message = INFER(raw_input_contents=[b"\0\0\0\0" * MOST_STRINGS])
    tensor = message.inputs.add(name="x", datatype="BYTES", shape=[1, MOST_STRINGS])
    assert encode(decode_inputs(message, specs)["x"]) == message.raw_input_contents[0]
    tensor.shape[1] += 1
    with pytest.raises(InvalidRequestError, match=f"more than {MOST_STRINGS} elements"):
        decode_inputs(message, specs)
