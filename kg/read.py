"""RDF in: files of every syntax, or an rdflib graph in memory, as a stream of quads.

Files go through pyoxigraph's parser (the one under oxrdflib), quad by quad, so memory does not grow with the graph.
"""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import pyoxigraph as ox
import rdflib
from rdflib.store import Store

from groundwire.kg.endpoint import Endpoint
from groundwire.kg.errors import SourceError
from groundwire.kg.guard import guarded
from groundwire.kg.sum_hash import SumHash
from groundwire.kg.terms import Quad, literal_key
from groundwire.surrogates import SURROGATE

FORMATS = {
    ".ttl": ox.RdfFormat.TURTLE,
    ".turtle": ox.RdfFormat.TURTLE,
    ".nt": ox.RdfFormat.N_TRIPLES,
    ".ntriples": ox.RdfFormat.N_TRIPLES,
    ".nq": ox.RdfFormat.N_QUADS,
    ".nquads": ox.RdfFormat.N_QUADS,
    ".trig": ox.RdfFormat.TRIG,
    ".jsonld": ox.RdfFormat.JSON_LD,
    ".json": ox.RdfFormat.JSON_LD,
    ".rdf": ox.RdfFormat.RDF_XML,
    ".xml": ox.RdfFormat.RDF_XML,
    ".owl": ox.RdfFormat.RDF_XML,
    ".n3": ox.RdfFormat.N3,
}
_BLOCK = 1 << 20
# A file, an endpoint's URL, a graph or data set of rdflib in any store, the store itself, or an endpoint with options.
Source = str | os.PathLike[str] | rdflib.Graph | Store | Endpoint
FileOrGraph = str | os.PathLike[str] | rdflib.Graph


def rdf_format(path: Path) -> ox.RdfFormat:
    """The RDF syntax of a file by its name; raises `SourceError` when the name tells none."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    found = FORMATS.get(suffix.lower())
    if found is None:
        known = " ".join(sorted(FORMATS))
        raise SourceError(f"{path}: the file name tells no RDF syntax; end it in one of {known} (.gz may follow)")
    return found


def is_rdf_file(path: Path) -> bool:
    """Whether the file's name tells an RDF syntax."""
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower() in FORMATS


def read_quads(source: FileOrGraph) -> Iterator[Quad]:
    """Stream the quads of a file or of an rdflib graph, in the order in which the source gives them.

    Blank nodes of a file are named `b0`, `b1`, … in the order in which they come: the same file gives the same names.
    Raises `SourceError` with file and line.
    """
    if isinstance(source, rdflib.Graph):
        return _graph_quads(source, "")
    return _file_quads(Path(source), "")


def read_all(sources: Iterable[FileOrGraph]) -> Iterator[Quad]:
    """Stream the quads of several sources; blank nodes of one file never meet those of another."""
    sources = list(sources)
    for number, source in enumerate(sources):
        if isinstance(source, rdflib.Graph):
            yield from _graph_quads(source, f"g{number}" if len(sources) > 1 else "")
        else:
            yield from _file_quads(Path(source), f"f{number}" if len(sources) > 1 else "")


def _file_quads(path: Path, prefix: str) -> Iterator[Quad]:
    syntax = rdf_format(path)
    names: dict[str, str] = {}
    node, literal = ox.NamedNode, ox.Literal

    def blank(term: ox.BlankNode) -> str:
        name = names.get(term.value)
        if name is None:
            name = names[term.value] = f"_:{prefix}b{len(names)}"
        return name

    def other(term: Any) -> str:
        if type(term) is ox.BlankNode:
            return blank(term)
        raise SourceError(f"{path}: holds a triple inside a triple (RDF 1.2), which is not supported; reify it instead")

    with _open(path) as stream:
        try:
            for quad in ox.parse(guarded(stream, syntax, str(path)), format=syntax, base_iri=path.absolute().as_uri()):
                s, p, o, g = quad
                if type(o) is node:
                    obj = o.value
                elif type(o) is literal:
                    obj = literal_key(o.value, o.datatype.value, o.language or "")
                else:
                    obj = other(o)
                yield (
                    s.value if type(s) is node else other(s),
                    p.value,
                    obj,
                    "" if type(g) is ox.DefaultGraph else g.value if type(g) is node else other(g),
                )
        except SyntaxError as error:
            raise SourceError(
                f"{path}{_line(error)}: not valid {syntax.name}: {error.msg}; correct the file"
            ) from error
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise SourceError(f"{path}: not a whole gzip file: {error}; fetch or compress it again") from error
        except (OSError, ValueError, UnicodeError) as error:
            raise SourceError(f"{path}: can't be read as {syntax.name}: {error}") from error
        except MemoryError as error:  # the parser's bound on one term, or the machine's
            raise SourceError(f"{path}: holds a term that is too long, or memory is full") from error


def _line(error: SyntaxError) -> str:
    return f", line {error.lineno}" if error.lineno else ""


def _open(path: Path) -> IO[bytes]:
    try:
        if path.suffix == ".gz":
            return cast(IO[bytes], gzip.open(path, "rb"))
        return path.open("rb")
    except (OSError, ValueError) as error:  # a name with a null character, or that is not of this system's encoding
        raise _unopened(path, error) from error


def _unopened(path: Path, error: OSError | ValueError) -> SourceError:
    name = str(path).encode("utf-8", "backslashreplace").decode()
    return SourceError(f"{name}: can't be opened: {getattr(error, 'strerror', None) or error}; check the path")


def as_graph(source: object) -> rdflib.Graph | None:
    """The graph of an rdflib graph or store, with named graphs where the store tells them; None for anything else."""
    if isinstance(source, rdflib.Graph):
        return source
    if not isinstance(source, Store):
        return None
    from rdflib.plugins.stores.sparqlstore import SPARQLStore  # noqa: PLC0415 - loads an HTTP client

    # rdflib's SPARQLStore says it knows graphs, but doesn't tell a triple's graph: `Endpoint` reads those.
    named = source.graph_aware and not isinstance(source, SPARQLStore)
    return rdflib.Dataset(store=source) if named else rdflib.Graph(store=source)


def _graph_quads(graph: rdflib.Graph, prefix: str) -> Iterator[Quad]:
    try:
        if isinstance(graph, rdflib.Dataset):
            for s, p, o, name in graph.quads((None, None, None, None)):
                yield *_triple_keys(s, p, o, prefix), _apart(graph_key(graph, name), prefix)
        else:
            for s, p, o in graph.triples((None, None, None)):
                yield *_triple_keys(s, p, o, prefix), ""
    except (OSError, ValueError) as error:  # rdflib's SPARQLStore raises ValueError when nothing answers
        store = type(graph.store).__name__
        raise SourceError(f"the rdflib store {store} can't be read: {error}; is what it reads from there?") from error


def _triple_keys(s: Any, p: Any, o: Any, prefix: str) -> tuple[str, str, str]:
    keys = node_key(s), node_key(p), node_key(o)
    if not all(keys):
        raise SourceError(f"the graph holds an empty IRI in {keys}; parse what it comes from with a publicID")
    return _apart(keys[0], prefix), keys[1], _apart(keys[2], prefix)


def _apart(key: str, prefix: str) -> str:
    """The key, of a blank node with a prefix, so that those of several sources never meet."""
    return f"_:{prefix}{key[2:]}" if prefix and key.startswith("_:") else key


def graph_key(dataset: rdflib.Graph, name: Any) -> str:
    """The string form of a quad's graph name as rdflib gives it; empty for the default graph."""
    identifier = name.identifier if isinstance(name, rdflib.Graph) else name
    if identifier is None or identifier == rdflib.graph.DATASET_DEFAULT_GRAPH_ID:
        return ""
    return node_key(identifier)


def node_key(node: Any) -> str:
    """The string form of an rdflib term; raises `SourceError` for what is no RDF term."""
    if isinstance(node, rdflib.URIRef):
        return str(node)
    if isinstance(node, rdflib.BNode):
        return f"_:{node}"
    if isinstance(node, rdflib.Literal):
        return literal_key(str(node), str(node.datatype or ""), node.language or "")
    raise SourceError(f"the graph holds {node!r}, which is no IRI, blank node or literal")


def load_dataset(paths: Sequence[FileOrGraph]) -> rdflib.Dataset:
    """Read RDF files into an rdflib `Dataset` on an in-memory Oxigraph store. Raises `SourceError`."""
    return to_dataset(read_all(paths))


def to_dataset(quads: Iterable[Quad]) -> rdflib.Dataset:
    """Put quads into an rdflib `Dataset` on an in-memory Oxigraph store.

    The Oxigraph store keeps numbers and dates in canonical form (`042` becomes `42`).
    """
    from oxrdflib import OxigraphStore  # noqa: PLC0415 - only this function needs it

    store = ox.Store()
    store.bulk_extend(to_oxigraph(quad) for quad in quads)
    return rdflib.Dataset(store=OxigraphStore(store=store))


def to_oxigraph(quad: Quad) -> ox.Quad:
    """A quad as Oxigraph has it. Raises `SourceError` for one that is no RDF, as rdflib's graphs may hold."""
    s, p, o, g = quad
    try:
        subject = cast("ox.NamedNode | ox.BlankNode", _to_term(s))
        graph = cast("ox.NamedNode | ox.BlankNode", _to_term(g)) if g else ox.DefaultGraph()
        return ox.Quad(subject, ox.NamedNode(p), _to_term(o), graph)
    except ValueError as error:
        raise _no_rdf(quad, error) from error


def _no_rdf(quad: Quad, error: ValueError) -> SourceError:
    if any(map(SURROGATE.search, quad)):
        what = "which holds half of a surrogate pair, no character; write the character, or leave it out"
    else:
        what = f"which is no RDF: {error}; correct it"
    return SourceError(f"the graph holds {quad!r}, {what}")


def _to_term(key: str) -> ox.NamedNode | ox.BlankNode | ox.Literal:
    if key.startswith("_:"):
        return ox.BlankNode(key[2:])
    if not key.startswith('"'):
        return ox.NamedNode(key)
    end = key.rindex('"')
    value, suffix = key[1:end], key[end + 1 :]
    if suffix.startswith("^^"):
        return ox.Literal(value, datatype=ox.NamedNode(suffix[2:]))
    return ox.Literal(value, language=suffix[1:]) if suffix else ox.Literal(value)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal; raises `SourceError` when it can't be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except (OSError, ValueError) as error:
        raise _unopened(path, error) from error
    return digest.hexdigest()


def graph_hash(graph: rdflib.Graph) -> str:
    """`SumHash` of the quads of an rdflib graph, hexadecimal. Raises `SourceError` for strings that are no Unicode."""
    digest = SumHash()
    for quad in _graph_quads(graph, ""):
        try:
            digest.add("\0".join(quad).encode())
        except UnicodeEncodeError as error:
            raise _no_rdf(quad, error) from error
    return digest.hexdigest()


def source_hashes(sources: Sequence[FileOrGraph], given: Mapping[int, tuple[str, str]] | None = None) -> dict[str, str]:
    """The hash of each source by its name: the file's name, or `graph` for one of rdflib; numbered when repeated.

    `given` holds name and hash of some sources, by place.
    """
    hashes: dict[str, str] = {}
    for place, source in enumerate(sources):
        if given and place in given:
            base, digest = given[place]
        elif isinstance(source, rdflib.Graph):
            base, digest = "graph", graph_hash(source)
        else:
            base, digest = Path(source).name, file_hash(Path(source))
        name, count = base, 1
        while name in hashes:
            count += 1
            name = f"{base} ({count})"
        hashes[name] = digest
    return hashes
