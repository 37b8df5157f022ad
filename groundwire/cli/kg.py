"""`groundwire kg`: compile a graph, link texts to it, ground texts in it."""

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from groundwire.cli.graph import GRAPH, GRAPH_HELP, graph_seconds
from groundwire.cli.lines import texts_or_lines
from groundwire.cli.query import query
from groundwire.kg import (
    Evidence,
    GraphInfo,
    LiveOptions,
    Mention,
    WordVectors,
    compile_graph,
    compile_store,
    open_graph,
)


@click.group()
def kg() -> None:
    """Compile a knowledge graph, and link and ground texts in it."""


_graph = click.option("--graph", required=True, type=GRAPH, help=GRAPH_HELP)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each text.")
_texts = click.argument("texts", metavar="[TEXT]...", nargs=-1)


@kg.command("compile")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write; replaced as a whole.")
@click.option(
    "--encoder",
    type=click.Path(path_type=Path),
    help="Folder of a text encoder (model.safetensors, tokenizer.json): rank triples by meaning too.",
)
def compile_(sources: tuple[Path, ...], out: Path, encoder: Path | None) -> None:
    """Compile RDF files (Turtle, N-Triples, N-Quads, TriG, JSON-LD, RDF/XML; gzipped or not) to a folder."""
    vectors = WordVectors.from_encoder(encoder) if encoder else None
    with _progress() as bar:
        task = bar.add_task("read", total=None, count="")

        def report(step: str, count: int) -> None:
            bar.update(task, description=step, count=f"{count:,}" if count else "")

        compile_graph(sources, out, progress=report, vectors=vectors)
    with closing(open_graph(out)) as retriever:
        info = retriever.info
    click.echo(f"{out}: {_numbers(info)}, version {info.version[:12]}", err=True)


@kg.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write; replaced as a whole.")
def store(sources: tuple[Path, ...], out: Path) -> None:
    """Write RDF files to a folder that SPARQL queries are answered from: `kg query`, `serve --query-store`."""
    with _progress() as bar:
        task = bar.add_task("read", total=None, count="")
        info = compile_store(
            sources, out, lambda step, count: bar.update(task, description=step, count=f"{count:,}" if count else "")
        )
    click.echo(f"{out}: {info.quads:,} quads, version {info.version[:12]}", err=True)


@kg.command()
@_graph
@graph_seconds
@_json
@_texts
def link(graph: Path | str, graph_seconds: float, as_json: bool, texts: tuple[str, ...]) -> None:
    """Find the graph's entities in each TEXT, or in each line of standard input."""
    with closing(open_graph(graph, options=LiveOptions(graph_seconds))) as retriever:
        for text in texts_or_lines(texts):
            mentions = retriever.link(text)
            if as_json:
                _print_json({"text": text, "mentions": _mentions_json(mentions)})
            else:
                _print_mentions(text, mentions)


@kg.command()
@_graph
@graph_seconds
@_json
@click.option("--top-k", default=16, show_default=True, type=click.IntRange(1, 256), help="Most triples for a text.")
@_texts
def ground(graph: Path | str, graph_seconds: float, as_json: bool, top_k: int, texts: tuple[str, ...]) -> None:
    """Find the entities in each TEXT (or line of standard input) and the triples that bear on it."""
    with closing(open_graph(graph, options=LiveOptions(graph_seconds))) as retriever:
        for text in texts_or_lines(texts):
            grounding = retriever.ground(text, top_k)
            if as_json:
                evidence = [_evidence_json(fact) for fact in grounding.evidence]
                _print_json({"text": text, "mentions": _mentions_json(grounding.mentions), "evidence": evidence})
            else:
                _print_mentions(text, grounding.mentions)
                _print_evidence(grounding.evidence, grounding.coverage)


kg.add_command(query)


def _print_json(value: dict[str, Any]) -> None:
    # A lone surrogate (from an argument that is not UTF-8) can't be written as UTF-8, but as an escape.
    line = json.dumps(value, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in line):
        line = json.dumps(value)
    click.echo(line)


def _mentions_json(mentions: tuple[Mention, ...] | list[Mention]) -> list[dict[str, Any]]:
    return [
        {
            "start": mention.start,
            "end": mention.end,
            "text": mention.text,
            "entity": mention.entity,
            "label": mention.label,
            "score": mention.score,
            "candidates": [{"entity": one.entity, "score": one.score} for one in mention.candidates],
        }
        for mention in mentions
    ]


def _evidence_json(fact: Evidence) -> dict[str, Any]:
    return {
        "subject": fact.subject.value,
        "predicate": fact.predicate.value,
        "object": fact.object.value,
        "graph": fact.graph,
        "text": fact.text,
        "score": fact.relevance,
    }


def _print_mentions(text: str, mentions: tuple[Mention, ...] | list[Mention]) -> None:
    table = Table("span", "mention", "entity", "label", "score", title=text, title_justify="left", expand=False)
    for mention in mentions:
        table.add_row(
            f"{mention.start}-{mention.end}", mention.text, mention.entity, mention.label, f"{mention.score:.2f}"
        )
    if mentions:
        _console().print(table, markup=False)
    else:
        click.echo(f"{text}\nno entity found")


def _print_evidence(evidence: tuple[Evidence, ...], coverage: float) -> None:
    table = Table("relevance", "evidence", "graph", expand=False)
    for fact in evidence:
        table.add_row(f"{fact.relevance:.2f}", fact.text, fact.graph)
    if evidence:
        _console().print(table, markup=False)
    click.echo(f"coverage {coverage:.2f}")


def _console() -> Console:
    return Console(markup=False, highlight=False)


def _numbers(info: GraphInfo) -> str:
    return (
        f"{info.triples:,} triples, {info.entities:,} entities, {info.labels:,} labels, "
        f"{info.predicates:,} predicates, {info.named_graphs:,} named graphs"
    )


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
