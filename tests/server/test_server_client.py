"""What the Python clients and the commands refuse before anything is sent: errors that say which field is at fault."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from click.testing import CliRunner
from commands import groundwire

from groundwire.cli.query import query
from groundwire.errors import GroundwireError
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.server.errors import InvalidRequestError
from groundwire.server.messages import message, predict_request, query_request
from groundwire.v1 import knowledge_pb2, prediction_pb2

NOWHERE = "127.0.0.1:1"
LONE = "Paris \ud800"
TOO_LARGE = 1 << 32


@pytest.mark.parametrize(
    ("ask", "field", "what"),
    [
        (lambda client: client.predict([LONE]), "text", "surrogate"),
        (lambda client: client.predict(["Paris"], model=LONE), "model", "surrogate"),
        (lambda client: client.predict(["Paris"], model_version=LONE), "model_version", "surrogate"),
        (lambda client: client.link(["Paris", LONE]), "texts", "surrogate"),
        (lambda client: client.ground([LONE]), "texts", "surrogate"),
        (lambda client: client.ground(["Paris"], top_k=TOO_LARGE), "top_k", "out of range"),
        (lambda client: client.ground(["Paris"], top_k=-1), "top_k", "out of range"),
        (lambda client: client.query(LONE), "query", "surrogate"),
        (lambda client: client.query("ASK {}", max_rows=-1), "max_rows", "out of range"),
        (lambda client: client.get_model(LONE), "name", "surrogate"),
        (lambda client: client.get_model("tiny", LONE), "version", "surrogate"),
    ],
)
async def test_what_can_not_be_sent_is_refused_by_its_field(
    ask: Callable[[Client | AsyncClient], object], field: str, what: str
) -> None:
    with Client(NOWHERE) as client, pytest.raises(InvalidRequestError, match=what) as refused:
        ask(client)
    assert refused.value.field == field
    async with AsyncClient(NOWHERE) as calling:
        with pytest.raises(InvalidRequestError, match=what) as refused:
            await ask(calling)  # type: ignore[misc]
    assert refused.value.field == field


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("token", ["secret\ud800", "secret ü", "secret\nX-Other: 1"])
async def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(kind: type, token: str) -> None:
    with pytest.raises(InvalidRequestError, match="token") as refused:
        kind(NOWHERE, token=token)
    assert "secret" not in str(refused.value)
    with pytest.raises(InvalidRequestError, match="target"):
        kind(f"{NOWHERE}\udcff")


@pytest.mark.parametrize("details", [b"\xff", b"\x1a\x04\x0a\x02\xff\xfe"])
def test_details_of_an_error_that_are_none_leave_the_error(details: bytes) -> None:
    def fail(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
        context.abort(grpc.StatusCode.UNAVAILABLE, "a proxy is down")
        raise AssertionError

    methods = {"GetGraph": grpc.unary_unary_rpc_method_handler(fail)}
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("groundwire.v1.KnowledgeService", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with Client(f"127.0.0.1:{port}") as client, pytest.raises(RemoteError, match="a proxy is down") as failed:
            client.get_graph()
    finally:
        server.stop(None).wait()
    assert (failed.value.code, failed.value.fields, failed.value.retry_after) == ("UNAVAILABLE", [], None)


def test_what_can_be_sent_is_built_as_ever() -> None:
    expected = prediction_pb2.PredictRequest(model="m", inputs=[prediction_pb2.PredictInput(text="a")])
    assert predict_request(["a"], "m") == expected
    assert query_request("ASK {}", TOO_LARGE - 1).max_rows == TOO_LARGE - 1
    with pytest.raises(TypeError):  # a mistake of the program, not of its input
        message(knowledge_pb2.GroundRequest, top_k="many")


def test_the_commands_say_what_is_wrong_without_a_traceback() -> None:
    """An argument that is no UTF-8 comes to Python with lone surrogates."""
    at = ("--target", NOWHERE)
    for arguments, words in (
        (("predict", *at, "--model", "m\udcff", "Paris"), "model"),
        (("predict", "--target", f"{NOWHERE}\udcff", "Paris"), "target"),
        (("kg", "query", *at, "ASK {} \udcff"), "query"),
    ):
        refused = groundwire(*arguments)
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False), refused.stderr
        assert words in refused.stderr
    bad = CliRunner().invoke(query, [*at, "-"], input=b"ASK \xff")
    assert isinstance(bad.exception, GroundwireError)
    assert "UTF-8" in str(bad.exception)
