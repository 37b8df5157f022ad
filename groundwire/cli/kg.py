"""`groundwire kg`: compile a graph, link texts to it, ground texts in it."""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from groundwire.cli.graph import GRAPH, GRAPH_HELP, graph_seconds
from groundwire.cli.grounding import (
    evidence_json,
    in_numbers,
    mentions_json,
    print_evidence,
    print_json,
    print_mentions,
)
from groundwire.cli.lines import texts_or_lines
from groundwire.cli.query import query
from groundwire.cli.signals import ended_by_sigterm
from groundwire.kg import (
    GraphError,
    GraphSettings,
    GraphWarning,
    LiveOptions,
    WordVectors,
    check_shapes,
    compile_graph,
    compile_store,
    open_graph,
    read_report,
)
from groundwire.kg.reason import ENTAILMENTS
from groundwire.kg.terms import Quad


@click.group()
@click.pass_context
def kg(context: click.Context) -> None:
    """Compile a knowledge graph, and link and ground texts in it."""
    context.with_resource(ended_by_sigterm())


_graph = click.option("--graph", required=True, type=GRAPH, help=GRAPH_HELP)
_json = click.option("--json", "as_json", is_flag=True, help="One JSON object a line for each text.")
_texts = click.argument("texts", metavar="[TEXT]...", nargs=-1)


@kg.command("compile")
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The folder to write; replaced as a whole.")
@click.option(
    "--encoder",
    type=click.Path(path_type=Path),
    help="Folder of a text encoder (model.safetensors, tokenizer.json): rank triples by meaning too.",
)
@click.option(
    "--language",
    "languages",
    multiple=True,
    metavar="TAG",
    help="Language of the labels that people read, best first (en, de, pt-BR); repeatable. Default: en.",
)
@click.option(
    "--fuse/--no-fuse",
    default=True,
    show_default=True,
    help="Make entities that owl:sameAs or skos:exactMatch call the same one entity with several IRIs.",
)
@click.option(
    "--functional",
    multiple=True,
    metavar="IRI",
    help="A predicate with one value a subject, beside those declared owl:FunctionalProperty; repeatable.",
)
@click.option("--conflicts", type=click.Path(path_type=Path), help="Write conflicts of functional predicates as JSON.")
@click.option(
    "--reason",
    type=click.Choice(ENTAILMENTS),
    help="Infer triples, into a named graph of their own. Takes the whole graph into memory.",
)
@click.option(
    "--shapes",
    multiple=True,
    type=click.Path(path_type=Path),
    help="SHACL shapes to hold the graph to, with what was inferred; repeatable. Takes the whole graph into memory.",
)
@click.option("--shapes-report", type=click.Path(path_type=Path), help="Write the results as JSON.")
@click.option("--fail-on-violation", is_flag=True, help="Compile nothing, exit code 1, if shapes are violated.")
def compile_(
    sources: tuple[str, ...],
    out: Path,
    encoder: Path | None,
    languages: tuple[str, ...],
    fuse: bool,
    functional: tuple[str, ...],
    conflicts: Path | None,
    reason: str | None,
    shapes: tuple[Path, ...],
    shapes_report: Path | None,
    fail_on_violation: bool,
) -> None:
    """Compile RDF to a folder.

    A SOURCE is a file (Turtle, N-Triples, N-Quads, TriG, JSON-LD, RDF/XML; gzipped or not), or the URL of a SPARQL 1.1
    endpoint.
    """
    if (shapes_report or fail_on_violation) and not shapes:
        raise click.UsageError("--shapes-report and --fail-on-violation need --shapes")
    vectors = WordVectors.from_encoder(encoder) if encoder else None
    settings = GraphSettings(functional_predicates=functional, entailment=reason or "")
    if languages:
        settings = replace(settings, languages=(*languages, *(() if "" in languages else ("",))))
    if not fuse:
        settings = replace(settings, fusion_predicates=())
    with _progress() as bar, _told_warnings():
        task = bar.add_task("read", total=None, count="")

        def report(step: str, count: int) -> None:
            bar.update(task, description=step, count=f"{count:,}" if count else "")

        def check(quads: Iterator[Quad]) -> None:
            report("validate", 0)
            found = check_shapes(quads, shapes)
            if shapes_report:
                _write_json(shapes_report, found.to_json())
            click.echo(found.to_text(), err=True, nl=False)
            if fail_on_violation:
                found.raise_for_violations()

        compile_graph(sources, out, settings, progress=report, vectors=vectors, check=check if shapes else None)
    with closing(open_graph(out)) as retriever:
        info = retriever.info
    built = read_report(out)
    if conflicts:
        _write_json(conflicts, {"count": built["conflict_count"], "conflicts": built["conflicts"]})
    _print_report(built)
    click.echo(f"{out}: {in_numbers(info)}, version {info.version[:12]}", err=True)


def _write_json(path: Path, document: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise GraphError(f"{path}: can't be written: {error.strerror or error}; choose another file") from error


def _print_report(built: dict[str, Any]) -> None:
    for count, what in (
        (built["fused_entities"], "entities fused from several IRIs"),
        (built["inferred_triples"], "triples inferred"),
        (built["conflict_count"], "conflicts of functional predicates"),
        (len(built["inconsistencies"]), "inconsistencies"),
    ):
        if count:
            click.echo(f"{count:,} {what}", err=True)


@contextmanager
def _told_warnings() -> Iterator[None]:
    """Tell warnings about the graph in one line each, when the block ends."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", GraphWarning)
        try:
            yield
        finally:
            for one in caught:
                click.echo(f"Warning: {one.message}", err=True)


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
                print_json({"text": text, "mentions": mentions_json(mentions)})
            else:
                print_mentions(text, mentions)


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
                evidence = [evidence_json(fact) for fact in grounding.evidence]
                print_json({"text": text, "mentions": mentions_json(grounding.mentions), "evidence": evidence})
            else:
                print_mentions(text, grounding.mentions)
                print_evidence(grounding.evidence, grounding.coverage)


kg.add_command(query)


def _progress() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
