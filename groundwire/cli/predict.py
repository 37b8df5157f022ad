"""`groundwire predict`: ask a running server."""

import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click
from google.protobuf import json_format
from rich.console import Console

from groundwire.cli.connection import Connection, connection_options
from groundwire.cli.lines import texts_or_lines
from groundwire.cli.numbers import FiniteRange
from groundwire.cli.render import render_prediction
from groundwire.errors import GroundwireError
from groundwire.v1 import prediction_pb2


@click.command()
@click.option("--target", required=True, metavar="HOST:PORT", help="Address of a server.")
@connection_options
@click.option("--model", default="", help="Name of the model; not needed when the server holds one.")
@click.option("--model-version", default="", help="Of several that answer; not given: the latest.")
@click.option("--coverage", type=FiniteRange(0, 1, min_open=True, max_open=True), help="Of the conformal set.")
@click.option("--top-k", default=0, type=click.IntRange(0, 256), help="Most evidence triples; 0: the bundle's number.")
@click.option("--contributions", is_flag=True, help="Measure what each triple contributes.")
@click.option("--probes", default=0, show_default=True, type=click.IntRange(0, 32), help="Copies with typos to judge.")
@click.option("--priority", default=0, type=click.IntRange(0, 64), help="1 runs first; 0: the server's default.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each text.")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
def predict(
    target: str,
    connection: Connection,
    model: str,
    model_version: str,
    coverage: float | None,
    top_k: int,
    *,
    contributions: bool,
    probes: int,
    priority: int,
    as_json: bool,
    texts: tuple[str, ...],
) -> None:
    """Predict each TEXT, or each line of standard input that is not blank, in their order.

    A text that fails does not stop the others; the exit code is then 1.
    """
    from groundwire.server.client import Client
    from groundwire.server.messages import message

    options = prediction_pb2.PredictOptions(
        coverage=coverage, top_k=top_k, contributions=contributions, probes=probes, priority=priority
    )
    console = Console()
    failed = False
    template = message(prediction_pb2.PredictStreamRequest, model=model, model_version=model_version, options=options)
    questions = _Questions(texts_or_lines(texts), template)
    with Client(target, **connection.arguments()) as client:
        for answer in _in_order(client.predict_stream(questions.requests())):
            text = questions.sent.pop(answer.id)
            failed = failed or answer.HasField("error")
            if as_json:
                click.echo(json.dumps(_as_json(text, answer), ensure_ascii=False))
            elif answer.HasField("error"):
                click.echo(f"{text[:100]}\nError: {answer.error.message}", err=True)
            else:
                render_prediction(console, text, answer.prediction)
    if questions.failure is not None:
        raise questions.failure
    if failed:
        sys.exit(1)


class _Questions:
    """Texts as requests, numbered by their id. gRPC takes them on its own thread, so `failure` keeps what it met.

    `template` is a request that says all but the text.
    """

    def __init__(self, texts: Iterable[str], template: prediction_pb2.PredictStreamRequest) -> None:
        self.sent: dict[str, str] = {}
        self.failure: GroundwireError | None = None
        self._texts = texts
        self._template = template

    def requests(self) -> Iterator[prediction_pb2.PredictStreamRequest]:
        """One request a text; ends at the first text that can't be sent."""
        try:
            for number, text in enumerate(self._texts):
                request = prediction_pb2.PredictStreamRequest(
                    id=str(number), input=prediction_pb2.PredictInput(text=text)
                )
                request.MergeFrom(self._template)
                self.sent[str(number)] = text
                yield request
        except UnicodeEncodeError:
            self.failure = GroundwireError("a TEXT is not valid UTF-8; check the encoding of the terminal.")
        except GroundwireError as error:
            self.failure = error


def _in_order(
    answers: Iterable[prediction_pb2.PredictStreamResponse],
) -> Iterator[prediction_pb2.PredictStreamResponse]:
    """Answers in the order of their numbers; they come in order of completion."""
    waiting: dict[int, prediction_pb2.PredictStreamResponse] = {}
    following = 0
    for answer in answers:
        waiting[int(answer.id)] = answer
        while following in waiting:
            yield waiting.pop(following)
            following += 1


def _as_json(text: str, answer: prediction_pb2.PredictStreamResponse) -> dict[str, Any]:
    if answer.HasField("error"):
        return {"text": text, "error": _fields(answer.error)}
    versions = {
        "model": answer.model,
        "model_version": answer.model_version,
        "graph_version": answer.graph_version,
    }
    return {"text": text, **versions, **_fields(answer.prediction)}


def _fields(message: prediction_pb2.Prediction | prediction_pb2.PredictError) -> dict[str, Any]:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
