"""The commands `predict` and `serve`."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from google.protobuf import json_format
from serving import TEXTS

from groundwire.bundle import Bundle
from groundwire.cli.predict import predict
from groundwire.cli.serve import serve
from groundwire.errors import BundleError, GroundwireError
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client, RemoteError
from groundwire.v1 import prediction_pb2


def run(server: BackgroundServer, *arguments: str, stdin: str | bytes | None = None) -> Result:
    return CliRunner().invoke(predict, ["--target", server.address, *arguments], input=stdin)


def test_json_is_one_prediction_a_line_with_text_and_versions(
    server: BackgroundServer, client: Client, tiny: Bundle
) -> None:
    result = run(server, "--json", *TEXTS)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line.pop("text") for line in lines] == list(TEXTS)
    for line, expected in zip(lines, client.predict(TEXTS).predictions, strict=True):
        assert line.pop("model") == "tiny"
        assert line.pop("model_version") == tiny.manifest.version
        assert line.pop("graph_version") == client.get_graph().version
        assert {"probability", "prediction_set", "uncertainty", "abstain_reasons", "text_truncated"} <= set(line)
        parsed = json_format.ParseDict(line, prediction_pb2.Prediction())
        assert parsed.label == expected.label
        assert parsed.probability == pytest.approx(expected.probability, abs=1e-6)
        assert parsed.evidence == expected.evidence


def test_texts_come_from_stdin_in_order(server: BackgroundServer) -> None:
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    result = run(server, "--json", stdin="\n\n".join(texts) + "\r\n  \n")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == texts


def test_people_see_label_set_causes_and_evidence(server: BackgroundServer, client: Client) -> None:
    result = run(server, "--contributions", "--probes", "8", "--coverage", "0.8", TEXTS[0])
    assert result.exit_code == 0, result.output
    [prediction] = client.predict([TEXTS[0]]).predictions
    for words in (
        TEXTS[0],
        prediction.label,
        "80%",
        "models",
        "sensitivity",
        "knowledge",
        "explanation",
        "contribution",
    ):
        assert words in result.stdout
    assert "Paris capital of: France" in result.stdout
    assert "abstain" in run(server, "nothing here").stdout


def test_markup_in_texts_is_shown_as_it_is(server: BackgroundServer) -> None:
    assert "[bold]Paris[/bold] [/]" in run(server, "[bold]Paris[/bold] [/]").stdout


def test_a_text_that_fails_does_not_stop_the_others(server: BackgroundServer) -> None:
    result = run(server, "--json", TEXTS[0], " ", TEXTS[1])
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 1
    assert [("error" in line) for line in lines] == [False, True, False]
    assert "blank" in lines[1]["error"]["message"]
    assert "blank" in run(server, " ").stderr


def test_stdin_that_is_not_utf8(server: BackgroundServer) -> None:
    result = run(server, "--json", stdin=b"Paris\n\xff\xfe\n")
    assert isinstance(result.exception, GroundwireError)
    assert "line 2" in str(result.exception)
    assert len(result.stdout.splitlines()) == 1


def test_no_server_there() -> None:
    result = CliRunner().invoke(predict, ["--target", "127.0.0.1:1", "Paris"])
    assert isinstance(result.exception, RemoteError)
    assert "groundwire serve" in str(result.exception)


def test_serve_refuses_what_can_not_be_served(tmp_path: Path, graph: Path) -> None:
    result = CliRunner().invoke(serve, ["--bundle", str(tmp_path / "nowhere"), "--graph", str(graph)])
    assert isinstance(result.exception, BundleError)
    for wrong in ([], ["--graph", str(graph)], ["--bundle", "x"], ["--model", "x"], ["--model", "a b=x"]):
        assert CliRunner().invoke(serve, wrong).exit_code == 2
    shown = CliRunner().invoke(serve, ["--help"]).stdout
    assert "127.0.0.1:50051" in shown
    assert "10000" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "nothing to serve"),
        (("--model-control", "explicit"), "need --models FOLDER"),
        (("--load-model", "x"), "need --models FOLDER"),
        (("--models", ".", "--model-control", "sometimes"), "is not one of"),
        (("--models", ".", "--model-versions", "0"), "--model-versions"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments: tuple[str, ...], words: str) -> None:
    result = CliRunner().invoke(serve, arguments)
    assert (result.exit_code, words in result.output) == (2, True), result.output
