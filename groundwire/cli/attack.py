"""`groundwire attack`: black-box attacks on a bundle in this process, or on a running server."""

import json
import platform
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from groundwire import __version__
from groundwire.cli.connection import Connection, connection_options
from groundwire.cli.graph import GRAPH, GRAPH_HELP
from groundwire.cli.numbers import FiniteRange

if TYPE_CHECKING:  # the toolchain takes seconds to import: `--help` does without
    from groundwire.export.attack_report import Attacked
    from groundwire.export.attacks.text.greedy import PredictFor
    from groundwire.export.attacks.text.targets import Grounded
    from groundwire.export.data import Example
    from groundwire.kg import Retriever

_KINDS = ("characters", "words", "evidence")


@click.command()
@click.option("--bundle", type=click.Path(path_type=Path), help="Folder of a bundle, to run in this process.")
@click.option("--target", metavar="HOST:PORT", help="Address of a running server, instead of --bundle.")
@connection_options
@click.option("--model", default="", help="Name of the server's model; not needed when it holds one.")
@click.option("--graph", type=GRAPH, help=GRAPH_HELP + " A bundle reads it, and other names of entities come from it.")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="JSONL of id, text, label, entities.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the report (JSON, HTML) and texts.jsonl.")
@click.option("--attack", "kinds", multiple=True, type=click.Choice(_KINDS), help="What to attack; all when left out.")
@click.option("--entities", type=click.Choice(["gold", "linked"]), default="linked", show_default=True,
              help="Ground in the entities that the data names, or in those that linking finds.")  # fmt: skip
@click.option("--edits", default=0.15, show_default=True, type=FiniteRange(0, 1), help="Share of the words.")
@click.option("--queries", default=200, show_default=True, type=click.IntRange(1), help="Most queries a text.")
@click.option("--limit", default=0, type=click.IntRange(0), help="Attack a sample of so many examples; 0 for all.")
@click.option("--seed", default=0, show_default=True, help="Of the sample.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def attack(bundle: Path | None, target: str | None, connection: Connection, model: str, graph: Path | str | None,
           data: Path, out: Path | None,
           kinds: tuple[str, ...], entities: str, edits: float, queries: int, limit: int, seed: int,
           *, as_json: bool) -> None:  # fmt: skip
    """Look for changes that leave the meaning and flip the label: spelling, synonyms, one triple of the evidence.

    Writes what was found to --out, so that people can read whether the texts still say the same.
    """
    from groundwire.export.attack_report import attack_served_evidence, attack_served_text
    from groundwire.export.attacks.text.greedy import Budget
    from groundwire.export.data import file_hash, read_examples
    from groundwire.export.robustness import Report, write_report

    if (bundle is None) == (target is None):
        raise click.UsageError("give either --bundle or --target")
    chosen = kinds or _KINDS[:2]
    if target and "evidence" in chosen:
        raise click.UsageError("a server chooses the evidence itself: attack evidence with --bundle and --graph")
    if out is not None and out.exists() and not out.is_dir():
        raise click.UsageError(f"--out {out} is a file; name a folder")
    reports: list[Report] = []
    found: dict[str, Sequence[Any]] = {}
    with ExitStack() as stack:
        retriever = _open_graph(stack, graph)
        pick = _Pick(read_examples(data), entities == "gold", limit, seed)
        if bundle is not None:
            subject = _of_bundle(bundle, retriever, pick)
            if subject.grounded is not None and not kinds:
                chosen = _KINDS
            elif subject.grounded is None and "evidence" in chosen:
                raise click.UsageError("this bundle reads the text alone: there is no evidence to attack")
        else:
            assert target is not None
            subject = _of_server(stack, target, connection, model, pick)
        texts = [kind for kind in chosen if kind != "evidence"]
        if texts:
            budget = Budget(edits, queries)
            report, of_text = attack_served_text(
                subject.name, subject.predict, subject.attacked, retriever, budget, texts, known=subject.known
            )
            reports.append(report)
            found |= of_text
        if "evidence" in chosen:
            assert subject.grounded is not None
            report, _ = attack_served_evidence(f"{subject.name}, evidence", subject.grounded, subject.attacked)
            reports.append(report)
    provenance = {
        "groundwire": __version__, "data": data.name, "data SHA-256": file_hash(data), "entities": entities,
        "examples": len(subject.attacked.examples), "seed": seed, "machine": platform.platform(),
    }  # fmt: skip
    if out is not None:
        page = write_report(reports, out, f"Robustness of {subject.name}", provenance)
        _write_texts(out / "texts.jsonl", found)
        click.echo(f"report: {page}", err=True)
    click.echo(json.dumps({"reports": [asdict(r) for r in reports], "provenance": provenance}) if as_json
               else "\n".join(map(_readable, reports)))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pick:
    examples: "Sequence[Example]"
    gold: bool
    limit: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Subject:
    name: str
    attacked: "Attacked"
    predict: "PredictFor"
    grounded: "Grounded | None" = None  # of a model that reads evidence
    known: Collection[str] = ()


def _open_graph(stack: ExitStack, graph: Path | str | None) -> "Retriever | None":
    if graph is None:
        return None
    from groundwire.kg import open_graph

    return stack.enter_context(closing(open_graph(graph)))


def _of_bundle(path: Path, retriever: "Retriever | None", pick: _Pick) -> _Subject:
    from groundwire.bundle import open_bundle
    from groundwire.export.attack_report import Attacked, vocabulary
    from groundwire.export.attacks.text.targets import Grounded, bundle_run

    bundle = open_bundle(path)
    inputs = bundle.manifest.inputs
    if retriever is None and inputs.top_k:
        raise click.UsageError("this bundle reads evidence: give --graph")
    attacked = Attacked.of(pick.examples, bundle.manifest.labels, pick.limit, pick.seed)
    named = [example.entities for example in attacked.examples] if pick.gold else None
    grounded = Grounded(bundle_run(bundle), bundle.encoder(), retriever, inputs.top_k, named)
    name = f"{bundle.manifest.name} {bundle.manifest.version}"
    reads = grounded if inputs.top_k else None
    return _Subject(name, attacked, grounded.texts_for, reads, vocabulary(bundle.tokenizer))


def _of_server(stack: ExitStack, target: str, connection: Connection, model: str, pick: _Pick) -> _Subject:
    from groundwire.export.attack_report import Attacked
    from groundwire.export.attacks.text.targets import served
    from groundwire.server.client import Client

    client = stack.enter_context(Client(target, **connection.arguments()))
    answer = client.predict([pick.examples[0].text], model=model)
    attacked = Attacked.of(
        pick.examples, [s.label for s in answer.predictions[0].scores], pick.limit, pick.seed
    )  # fmt: skip
    named = [example.entities for example in attacked.examples] if pick.gold else None
    predict = served(lambda asked: client.predict(asked, model=model), entities=named)
    return _Subject(f"{answer.model} {answer.model_version}", attacked, predict)


def _write_texts(path: Path, found: Mapping[str, Sequence[Any]]) -> None:
    """The texts that changed a label, beside the originals."""
    with path.open("w", encoding="utf-8") as file:
        for kind, results in found.items():
            for result in results:
                if result.attacked != result.clean:
                    file.write(json.dumps({"attack": kind, **asdict(result)}, ensure_ascii=False) + "\n")


def _readable(report: Any) -> str:
    lines = [f"{report.name}: {report.threat}", f"  {'clean':<24} {report.clean.value:.1%} of {report.clean.examples}"]
    lines += [f"  {'under ' + kind:<24} {share.value:.1%}" for kind, share in report.attacks.items()]
    lines += [
        f"  {'under all of them':<24} {report.worst_case.value:.1%} "
        f"[{report.worst_case.low:.1%}, {report.worst_case.high:.1%}]",
        f"  {'label changed':<24} {report.changed.value:.1%}, with confidence {report.changed_confident.value:.1%}",
    ]
    return "\n".join(lines)
