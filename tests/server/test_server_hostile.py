"""Hostile requests: a clear error with the right status and field, and the server goes on serving."""

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import TEXTS

from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client, RemoteError
from groundwire.server.errors import InvalidRequestError
from groundwire.v1 import knowledge_pb2, model_pb2, prediction_pb2

PredictInput = prediction_pb2.PredictInput
PredictOptions = prediction_pb2.PredictOptions


@pytest.fixture
def channel(server: BackgroundServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture(autouse=True)
def still_serving(client: Client) -> Iterator[None]:
    """After each attack, the server answers as before."""
    before = client.predict([TEXTS[0]])
    yield
    assert client.predict([TEXTS[0]]) == before


@pytest.mark.parametrize(
    ("inputs", "options", "field"),
    [
        ([], None, "inputs"),
        ([""], None, "inputs[0].text"),
        (["fine", " \t\n\u3000"], None, "inputs[1].text"),
        (["x" * 1_000_000], None, "inputs[0].text"),
        (["x" * 10_001], None, "inputs[0].text"),
        (["fine"] * 65, None, "inputs"),
        ([PredictInput(text="fine", entities=["no iri"])], None, "inputs[0].entities[0]"),
        ([PredictInput(text="fine", entities=["http://ok.org/", ""])], None, "inputs[0].entities[1]"),
        ([PredictInput(text="fine", entities=["http://ok.org/<script>"])], None, "inputs[0].entities[0]"),
        ([PredictInput(text="fine", entities=["urn:x:" + "\x00"])], None, "inputs[0].entities[0]"),
        ([PredictInput(text="fine", entities=["urn:a:b"] * 65)], None, "inputs[0].entities"),
        (["fine"], PredictOptions(coverage=0), "options.coverage"),
        (["fine"], PredictOptions(coverage=1), "options.coverage"),
        (["fine"], PredictOptions(coverage=-0.5), "options.coverage"),
        (["fine"], PredictOptions(coverage=float("nan")), "options.coverage"),
        (["fine"], PredictOptions(top_k=257), "options.top_k"),
        (["fine"], PredictOptions(probes=33), "options.probes"),
        (["fine"], PredictOptions(probes=2**32 - 1, top_k=2**32 - 1), "options.top_k"),
    ],
)
def test_a_broken_rule_names_its_field(client: Client, inputs, options: PredictOptions | None, field: str) -> None:
    with pytest.raises(RemoteError) as refused:
        client.predict(inputs, options=options)
    assert refused.value.code == "INVALID_ARGUMENT"
    assert refused.value.fields == [field]


def test_the_limits_themselves_are_allowed(client: Client) -> None:
    assert len(client.predict(["x" * 10_000]).predictions) == 1
    assert len(client.predict([TEXTS[0]] * 64).predictions) == 64
    full = PredictInput(text=TEXTS[0], entities=["http://example.org/Paris"] * 64)
    options = PredictOptions(top_k=256, probes=32, contributions=True, coverage=0.999)
    assert len(client.predict([full], options=options).predictions) == 1


def test_unknown_model(client: Client) -> None:
    for call in (lambda: client.predict(["fine"], model="nope"), lambda: client.get_model("nope")):
        with pytest.raises(RemoteError, match="tiny") as refused:
            call()
        assert refused.value.code == "NOT_FOUND"


def test_a_message_over_the_limit(client: Client) -> None:
    with pytest.raises(RemoteError) as refused:
        client.predict(["x" * 9 * 1024 * 1024])
    assert refused.value.code == "RESOURCE_EXHAUSTED"


def test_a_lone_surrogate_is_refused_by_the_client() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequestError, match="surrogate"):
        client.predict(["Paris \ud800"])


def raw_call(channel: grpc.Channel, method: str, content: bytes) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary(f"/groundwire.v1.{method}")(content, timeout=20)
    return refused.value


# Field 2 (inputs, or the text of an input), length-delimited: {2: {2: b"\xff\xfe"}}.
INVALID_UTF8 = b"\x12\x04\x12\x02\xff\xfe"


@pytest.mark.parametrize(
    ("method", "content"),
    [
        ("PredictionService/Predict", INVALID_UTF8),
        ("PredictionService/Predict", b"\x12\x7f"),  # says 127 bytes follow, none do
        ("PredictionService/Predict", b"\xff" * 100),
        ("KnowledgeService/Link", b"\x0a\x02\xff\xfe"),
        ("KnowledgeService/Ground", b"\x0a\x02\xc3\x28"),
        ("ModelService/GetModel", b"\x0a\x01\x80"),
    ],
)
def test_bytes_that_are_no_message(channel: grpc.Channel, method: str, content: bytes) -> None:
    error = raw_call(channel, method, content)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in error.details()
    [detail] = rpc_status.from_call(error).details
    assert detail.Is(error_details_pb2.BadRequest.DESCRIPTOR)


def test_unknown_methods(channel: grpc.Channel) -> None:
    assert raw_call(channel, "PredictionService/Nope", b"").code() is grpc.StatusCode.UNIMPLEMENTED
    assert raw_call(channel, "Nope/Nope", b"").code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("texts", [[], ["fine", ""], ["x" * 10_001], ["fine"] * 65])
def test_link_and_ground_keep_the_same_rules(client: Client, texts: list[str]) -> None:
    for call in (client.link, client.ground):
        with pytest.raises(RemoteError) as refused:
            call(texts)
        assert refused.value.code == "INVALID_ARGUMENT"
        assert refused.value.fields[0].startswith("texts")
    with pytest.raises(RemoteError) as refused:
        client.ground(["fine"], top_k=257)
    assert refused.value.fields == ["top_k"]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=200))
def test_random_bytes_never_hurt(server: BackgroundServer, content: bytes) -> None:
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
    with grpc.insecure_channel(server.address) as channel:
        for method in ("PredictionService/Predict", "KnowledgeService/Ground", "ModelService/GetModel"):
            call = channel.unary_unary(f"/groundwire.v1.{method}").future(content, timeout=20)
            assert call.code() in allowed, call.details()


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(max_size=200),
    entities=st.lists(st.text(max_size=30), max_size=3),
    probes=st.integers(0, 40),
    contributions=st.booleans(),
    top_k=st.integers(0, 300),
    coverage=st.none() | st.floats(),
)
def test_random_requests_are_answered_or_refused(
    client: Client,
    text: str,
    entities: list[str],
    probes: int,
    contributions: bool,
    top_k: int,
    coverage: float | None,
) -> None:
    item = PredictInput(text=text, entities=entities)
    options = PredictOptions(probes=probes, contributions=contributions, top_k=top_k, coverage=coverage)
    try:
        [prediction] = client.predict([item], options=options).predictions
    except RemoteError as error:
        assert (error.code, bool(error.fields[0])) == ("INVALID_ARGUMENT", True)  # noqa: PT017 - an answer is as good
    else:
        assert sum(score.probability for score in prediction.scores) == pytest.approx(1, abs=1e-5)


def test_the_messages_are_what_these_tests_take_them_for() -> None:
    """Guards INVALID_UTF8 against a renumbered field."""
    assert prediction_pb2.PredictRequest.FromString(b"\x12\x04\x12\x02ab").inputs[0].text == "ab"
    assert knowledge_pb2.LinkRequest.FromString(b"\x0a\x02ab").texts == ["ab"]
    assert model_pb2.GetModelRequest.FromString(b"\x0a\x01a").name == "a"
