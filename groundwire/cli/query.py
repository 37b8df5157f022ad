"""`groundwire kg query`: ask a SPARQL query of a running server, or of a query store."""

import asyncio
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import pyoxigraph as ox
from rich.console import Console
from rich.table import Table

from groundwire.cli.connection import Connection, connection_options
from groundwire.cli.numbers import FiniteRange
from groundwire.errors import GroundwireError
from groundwire.v1 import knowledge_pb2


@click.command()
@click.option("--target", metavar="HOST:PORT", help="Address of a server that was started with --query-store.")
@connection_options
@click.option(
    "--store", type=click.Path(path_type=Path), help="A folder made by `groundwire kg store`, without a server."
)
@click.option(
    "--max-rows", default=0, type=click.IntRange(0, 2**32 - 1), help="Most rows or triples; 0: as many as are allowed."
)
@click.option(
    "--timeout", default=0.0, type=FiniteRange(0), help="Most seconds of the query; 0: as long as is allowed."
)
@click.option("--json", "as_json", is_flag=True, help="SPARQL 1.1 Query Results JSON; of CONSTRUCT, a list of triples.")
@click.argument("query")
def query(target: str | None, connection: Connection, store: Path | None, max_rows: int, timeout: float,
          *, as_json: bool, query: str) -> None:  # fmt: skip
    """Ask the SPARQL 1.1 query QUERY (SELECT, ASK, CONSTRUCT or DESCRIBE); `-` reads it from standard input.

    Queries only read: SERVICE, FROM and updates are refused. Graphs that are made are printed as N-Triples.
    """
    from groundwire.server.client import Client
    from groundwire.server.messages import query_request

    if (target is None) == (store is None):
        raise click.UsageError("give one of --target HOST:PORT and --store DIR")
    text = _standard_input() if query == "-" else query
    if target is not None:
        with Client(target, timeout=timeout + 30.0, **connection.arguments()) as client:
            response = client.query(text, max_rows, timeout)
    else:
        assert store is not None
        response = asyncio.run(_ask(store, query_request(text, max_rows, timeout)))
    if as_json:
        click.echo(json.dumps(_as_json(response), ensure_ascii=False))
    else:
        _print(response)
    if response.truncated:
        click.echo("there is more: raise --max-rows, or use LIMIT and OFFSET", err=True)


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise GroundwireError(f"standard input is not UTF-8: {error}") from error


async def _ask(store: Path, request: knowledge_pb2.QueryRequest) -> knowledge_pb2.QueryResponse:
    from groundwire.server.config import QueryLimits
    from groundwire.server.query_pool import QueryPool

    defaults = QueryLimits()
    limits = QueryLimits(
        seconds=request.timeout_seconds or defaults.seconds, rows=request.max_rows or defaults.rows, workers=1
    )
    pool = QueryPool(store, limits)
    await pool.open()
    try:
        return await pool.query(request, None)
    finally:
        await pool.close()


def _print(response: knowledge_pb2.QueryResponse) -> None:
    match response.WhichOneof("result"):
        case "boolean":
            click.echo("yes" if response.boolean else "no")
        case "triples":
            for line in _n_triples(response.triples.triples):
                click.echo(line)
        case _:
            table = Table(*response.solutions.variables, expand=False)
            for row in response.solutions.rows:
                table.add_row(*(_short(term) for term in row.terms))
            Console(markup=False, highlight=False).print(table, markup=False)


def _n_triples(triples: Iterable[knowledge_pb2.QueryTriple]) -> Iterable[str]:
    for triple in triples:
        yield f"{_oxigraph(triple.subject)} {_oxigraph(triple.predicate)} {_oxigraph(triple.object)} ."


def _oxigraph(term: knowledge_pb2.Term) -> ox.NamedNode | ox.BlankNode | ox.Literal:
    match term.WhichOneof("value"):
        case "iri":
            return ox.NamedNode(term.iri)
        case "blank_node":
            return ox.BlankNode(term.blank_node)
        case _:
            literal = term.literal
            if literal.language:
                return ox.Literal(literal.lexical_form, language=literal.language)
            return ox.Literal(literal.lexical_form, datatype=ox.NamedNode(literal.datatype))


def _short(term: knowledge_pb2.Term) -> str:
    match term.WhichOneof("value"):
        case "literal":
            return term.literal.lexical_form
        case None:
            return ""
        case _:
            return term.iri or f"_:{term.blank_node}"


def _as_json(response: knowledge_pb2.QueryResponse) -> dict[str, Any]:
    """As https://www.w3.org/TR/sparql11-results-json/, with what it allows to add; triples as objects of such terms."""
    more = {"truncated": response.truncated, "graph_version": response.graph_version}
    match response.WhichOneof("result"):
        case "boolean":
            return {"head": {}, "boolean": response.boolean, **more}
        case "triples":
            return {
                "triples": [
                    {part: _json_term(getattr(triple, part)) for part in ("subject", "predicate", "object")}
                    for triple in response.triples.triples
                ],
                **more,
            }
        case _:
            variables = list(response.solutions.variables)
            bindings = [
                {
                    name: _json_term(term)
                    for name, term in zip(variables, row.terms, strict=True)
                    if term.WhichOneof("value")
                }
                for row in response.solutions.rows
            ]
            return {"head": {"vars": variables}, "results": {"bindings": bindings}, **more}


def _json_term(term: knowledge_pb2.Term) -> dict[str, str]:
    match term.WhichOneof("value"):
        case "iri":
            return {"type": "uri", "value": term.iri}
        case "blank_node":
            return {"type": "bnode", "value": term.blank_node}
        case _:
            literal = {"type": "literal", "value": term.literal.lexical_form}
            if term.literal.language:
                return literal | {"xml:lang": term.literal.language}
            if term.literal.datatype != "http://www.w3.org/2001/XMLSchema#string":
                return literal | {"datatype": term.literal.datatype}
            return literal
