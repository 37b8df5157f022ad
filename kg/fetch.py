"""A whole graph from a SPARQL 1.1 endpoint, page by page, into an N-Quads file.

CONSTRUCT can't tell a triple's graph, so the default graph and each named graph (`SELECT DISTINCT ?g`) are read on
their own, ordered by all that tells two terms apart, with LIMIT and OFFSET. A count asked for before says when all is
there: an endpoint that cuts its answers short, or a graph that changes meanwhile, is an error and not half a graph.

- Where the default graph is the union of the named ones, as it is on many servers, only what no named graph holds is
  read from it. A sample of 100 triples shows whether it is.
- Blank nodes have no name across answers: a page would tear them apart. The triples that hold any are read in one
  answer for each graph, and refused when they are more than 100,000. A blank node of two graphs becomes two.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyoxigraph as ox

from groundwire.kg.endpoint import Endpoint
from groundwire.kg.errors import SourceError
from groundwire.kg.sum_hash import SumHash

_MOST_BLANK = 100_000
_SAMPLE = 100
# ORDER BY compares literals by value: 1 and 01 are equal, and some have no order. Strings do.
_ORDER = "ORDER BY STR(?s) STR(?p) STR(?o) isIRI(?o) STR(DATATYPE(?o)) LANG(?o)"
_BLANK = "isBlank(?s) || isBlank(?o)"


def fetch(endpoint: Endpoint, path: Path, progress: Callable[[str, int], None]) -> str:
    """Write all quads of the endpoint to `path`, as N-Quads; returns their hash, whatever their order (`SumHash`).

    The hash is the same again as long as the endpoint gives its blank nodes the same names. Raises `SourceError` that
    names endpoint, graph and page.
    """
    count, digest = 0, SumHash()
    with path.open("wb") as stream:
        for quads in _pages(endpoint):
            lines = [f"{quad} .\n".encode() for quad in quads]
            stream.writelines(lines)
            for line in lines:
                digest.add(line)
            count += len(lines)
            progress("fetch", count)
    return digest.hexdigest()


def _pages(endpoint: Endpoint) -> Iterator[list[ox.Quad]]:
    rows = endpoint.select("SELECT DISTINCT ?g WHERE { GRAPH ?g { ?s ?p ?o } }", "the list of graphs")
    try:
        graphs = [ox.NamedNode(name) for name in sorted(row["g"]["value"] for row in rows)]
    except (KeyError, ValueError) as error:
        raise SourceError(f"{endpoint.shown}, the list of graphs: not every name is an IRI ({error})") from error
    rest = "?s ?p ?o"
    if graphs and _is_union(endpoint):
        rest += " FILTER NOT EXISTS { GRAPH ?g { ?s ?p ?o } }"
    for number, (graph, pattern) in enumerate(
        [(None, rest), *((graph, f"GRAPH {graph} {{ ?s ?p ?o }}") for graph in graphs)]
    ):
        name = f"graph {graph.value}" if graph else "the default graph"
        for triples in _pages_of(endpoint, pattern, name):
            yield [_quad(triple, graph, number) for triple in triples]


def _is_union(endpoint: Endpoint) -> bool:
    sample = f"{{ SELECT ?s ?p ?o WHERE {{ GRAPH ?g {{ ?s ?p ?o FILTER(!({_BLANK})) }} }} LIMIT {_SAMPLE} }}"
    return not endpoint.ask(f"ASK {{ {sample} FILTER NOT EXISTS {{ ?s ?p ?o }} }}", "the default graph")


def _pages_of(endpoint: Endpoint, pattern: str, name: str) -> Iterator[list[ox.Triple]]:
    blank = _count(endpoint, f"{pattern} FILTER({_BLANK})", name)
    if blank > _MOST_BLANK:
        raise SourceError(
            f"{endpoint.shown}, {name}: {blank:,} triples hold blank nodes, which pages would tear apart; "
            "give them IRIs (skolemise), or compile a dump of the graph"
        )
    if blank:
        query = f"CONSTRUCT {{ ?s ?p ?o }} WHERE {{ {pattern} FILTER({_BLANK}) }}"
        triples = endpoint.construct(query, f"{name}, blank nodes")
        _complete(endpoint, len(triples), blank, f"{name}, blank nodes")
        yield triples
    plain = f"{pattern} FILTER(!({_BLANK}))"
    total, read, page = _count(endpoint, plain, name), 0, 0
    while read < total:
        page += 1
        query = f"CONSTRUCT {{ ?s ?p ?o }} WHERE {{ {plain} }} {_ORDER} LIMIT {endpoint.page} OFFSET {read}"
        triples = endpoint.construct(query, f"{name}, page {page}")
        read += len(triples)
        if not triples or read > total:
            _complete(endpoint, read, total, f"{name}, page {page}")
        yield triples


def _complete(endpoint: Endpoint, read: int, total: int, what: str) -> None:
    if read != total:
        raise SourceError(
            f"{endpoint.shown}, {what}: {read:,} triples came instead of the {total:,} counted before; "
            "the endpoint cuts its answers, or its graph changed: try again, or with smaller pages"
        )


def _count(endpoint: Endpoint, pattern: str, name: str) -> int:
    rows = endpoint.select(f"SELECT (COUNT(*) AS ?n) WHERE {{ {pattern} }}", f"{name}, the count")
    try:
        return int(rows[0]["n"]["value"])
    except (IndexError, KeyError, ValueError) as error:
        raise SourceError(f"{endpoint.shown}, {name}: the endpoint can't count its triples ({error!r})") from error


def _quad(triple: ox.Triple, graph: ox.NamedNode | None, number: int) -> ox.Quad:
    subject, obj = (
        ox.BlankNode(f"g{number}x{term.value}") if isinstance(term, ox.BlankNode) else term
        for term in (triple.subject, triple.object)
    )
    if isinstance(subject, ox.Triple) or isinstance(obj, ox.Triple):
        raise SourceError(f"{triple}: a triple inside a triple (RDF 1.2) is not supported; reify it instead")
    return ox.Quad(subject, triple.predicate, obj, graph or ox.DefaultGraph())  # type: ignore[arg-type]
