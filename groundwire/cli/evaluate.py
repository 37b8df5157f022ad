"""`groundwire evaluate`: a bundle in this process, or a running server, on labelled data."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any, Protocol

import click
import numpy as np

from groundwire import metrics
from groundwire.cli.connection import Connection, connection_options
from groundwire.cli.graph import GRAPH, GRAPH_HELP
from groundwire.cli.numbers import FiniteRange
from groundwire.errors import GroundwireError
from groundwire.export.data import Example, read_examples
from groundwire.export.progress import track
from groundwire.v1 import prediction_pb2


class EvaluationError(GroundwireError):
    """The data and the model don't fit together."""


class _Ask(Protocol):
    async def __call__(
        self, item: prediction_pb2.PredictInput, options: prediction_pb2.PredictOptions
    ) -> prediction_pb2.Prediction: ...


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of a bundle, to run in this process.")
@click.option("--graph", type=GRAPH, help=GRAPH_HELP)
@click.option("--target", metavar="HOST:PORT", help="Address of a running server, instead of --bundle and --graph.")
@connection_options
@click.option("--model", default="", help="Name of the server's model; not needed when it holds one.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="JSONL of id, text, label, entities.")
@click.option(
    "--entities",
    type=click.Choice(["gold", "linked"]),
    default="linked",
    show_default=True,
    help="Ground in the entities that the data names, or in those that linking finds.",
)
@click.option("--coverage", multiple=True, type=FiniteRange(0, 1, min_open=True, max_open=True), default=[0.9],
              show_default=True, help="Of the conformal sets; may be given several times.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def evaluate(bundle: Path | None, graph: Path | str | None, target: str | None, connection: Connection, model: str,
             data: Path, entities: str, coverage: tuple[float, ...], *, as_json: bool) -> None:  # fmt: skip
    """Measure accuracy, calibration, conformal sets, abstention and latency, one request after the other."""
    if (target is None) == (bundle is None and graph is None) or (target is None and (bundle is None or graph is None)):
        raise click.UsageError("give either --bundle and --graph, or --target")
    examples = read_examples(data)
    figures = asyncio.run(_evaluate(bundle, graph, target, connection, model, examples, entities == "gold", coverage))
    click.echo(json.dumps(figures) if as_json else _readable(figures))


async def _evaluate(bundle: Path | None, graph: Path | str | None, target: str | None, connection: Connection,
                    model: str, examples: Sequence[Example], gold: bool,
                    coverages: Sequence[float]) -> dict[str, Any]:  # fmt: skip
    from groundwire.server.messages import message

    async with _asker(bundle, graph, target, connection, model) as ask:
        predictions, latency = [], []
        held: dict[float, list[bool]] = {c: [] for c in coverages}
        sizes: dict[float, list[int]] = {c: [] for c in coverages}
        for example in track(examples, "evaluating"):
            item = message(
                prediction_pb2.PredictInput,
                id=example.id,
                text=example.text,
                entities=example.entities if gold else (),
            )
            for n, coverage in enumerate(coverages):
                started = time.perf_counter()
                prediction = await ask(item, prediction_pb2.PredictOptions(coverage=coverage))
                if n == 0:
                    latency.append((time.perf_counter() - started) * 1e3)
                    predictions.append(prediction)
                held[coverage].append(example.label in prediction.prediction_set.labels)
                sizes[coverage].append(len(prediction.prediction_set.labels))
    return _figures(examples, predictions, latency, held, sizes)


@asynccontextmanager
async def _asker(
    bundle: Path | None, graph: Path | str | None, target: str | None, connection: Connection, model: str
) -> AsyncIterator[_Ask]:
    """The same question to a server or to a pipeline in this process."""
    async with AsyncExitStack() as stack:
        if target is not None:
            from groundwire.server.client import AsyncClient

            client = await stack.enter_async_context(AsyncClient(target, **connection.arguments()))

            async def ask_server(
                item: prediction_pb2.PredictInput, options: prediction_pb2.PredictOptions
            ) -> prediction_pb2.Prediction:
                return (await client.predict([item], model=model, options=options)).predictions[0]

            yield ask_server
            return
        from groundwire.bundle import open_bundle
        from groundwire.kg import open_graph
        from groundwire.server.pipeline import Pipeline

        assert bundle is not None and graph is not None
        retriever = stack.enter_context(closing(open_graph(graph)))
        pipeline = await stack.enter_async_context(Pipeline(open_bundle(bundle), retriever))

        async def ask_pipeline(
            item: prediction_pb2.PredictInput, options: prediction_pb2.PredictOptions
        ) -> prediction_pb2.Prediction:
            return (await pipeline.predict([item], options))[0]

        yield ask_pipeline


def _figures(examples: Sequence[Example], predictions: Sequence[prediction_pb2.Prediction], latency: Sequence[float],
             held: dict[float, list[bool]], sizes: dict[float, list[int]]) -> dict[str, Any]:  # fmt: skip
    names = [score.label for score in predictions[0].scores]
    strange = sorted({e.label for e in examples} - set(names))
    if strange:
        raise EvaluationError(f"labels {strange} of the data are not among the model's {names}: take other data.")
    labels = np.array([names.index(e.label) for e in examples])
    probabilities = np.array([[score.probability for score in p.scores] for p in predictions])
    accepted = np.array([p.decision == prediction_pb2.DECISION_ACCEPT for p in predictions])
    right = probabilities.argmax(axis=1) == labels
    return {
        "n": len(examples),
        "accuracy": metrics.accuracy(probabilities, labels),
        "macro_f1": metrics.macro_f1(probabilities, labels),
        "nll": metrics.nll(probabilities, labels),
        "brier": metrics.brier(probabilities, labels),
        "ece": metrics.ece(probabilities, labels),
        "aurc": metrics.aurc(probabilities, labels),
        "coverage": {f"{c:g}": float(np.mean(h)) for c, h in held.items()},
        "set_size": {f"{c:g}": float(np.mean(s)) for c, s in sizes.items()},
        "accepted": float(accepted.mean()),
        "accepted_accuracy": float(right[accepted].mean()) if accepted.any() else None,
        "latency_ms": {"p50": float(np.percentile(latency, 50)), "p99": float(np.percentile(latency, 99))},
    }


def _readable(figures: dict[str, Any]) -> str:
    lines = []
    for name, value in figures.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        for key, number in inner:
            title = f"{name} {key}".strip().replace("_", " ")
            lines.append(f"{title:<20} {f'{number:.4f}' if isinstance(number, float) else number}")
    return "\n".join(lines)
