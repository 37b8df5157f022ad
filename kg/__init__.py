"""The knowledge graph: RDF in, compiled graph out, link, retrieve, verbalise."""

import os
from collections.abc import Sequence
from pathlib import Path

import rdflib

from groundwire.kg.compile import compile_graph
from groundwire.kg.compiled import CompiledRetriever
from groundwire.kg.endpoint import Endpoint, is_endpoint
from groundwire.kg.errors import (
    CompiledGraphError,
    GraphError,
    GraphTimeoutError,
    GraphUnavailableError,
    GraphWarning,
    SourceError,
    StoreError,
    UnknownEntityError,
    ValidationError,
)
from groundwire.kg.prepare import prepared
from groundwire.kg.rdf import RdflibRetriever
from groundwire.kg.read import Source, load_dataset, to_dataset
from groundwire.kg.report import read_report
from groundwire.kg.settings import GraphSettings
from groundwire.kg.shapes import ShapeReport, ShapeResult, check_shapes
from groundwire.kg.source import LiveOptions
from groundwire.kg.sparql_source import SparqlSource
from groundwire.kg.store import StoreInfo, compile_store, store_info
from groundwire.kg.types import Candidate, Evidence, GraphInfo, Grounding, Mention, Retriever, Term
from groundwire.kg.vectors import WordVectors
from groundwire.kg.verbalise import verbalise, verbalise_evidence

__all__ = [
    "Candidate",
    "CompiledGraphError",
    "CompiledRetriever",
    "Endpoint",
    "Evidence",
    "GraphError",
    "GraphInfo",
    "GraphSettings",
    "GraphTimeoutError",
    "GraphUnavailableError",
    "GraphWarning",
    "Grounding",
    "LiveOptions",
    "Mention",
    "RdflibRetriever",
    "Retriever",
    "ShapeReport",
    "ShapeResult",
    "SourceError",
    "StoreError",
    "StoreInfo",
    "Term",
    "UnknownEntityError",
    "ValidationError",
    "WordVectors",
    "check_shapes",
    "compile_graph",
    "compile_store",
    "load_dataset",
    "open_graph",
    "read_report",
    "store_info",
    "verbalise",
    "verbalise_evidence",
]


def open_graph(
    path: Source | Sequence[Source], settings: GraphSettings | None = None, options: LiveOptions | None = None
) -> Retriever:
    """Open a compiled folder with the compiled retriever, or sources with the rdflib retriever.

    Sources are what `compile_graph` takes. `settings` and `options` count for them only: a compiled folder holds its
    own. They are read once, into memory, but for the URL of an endpoint alone, and for a single graph or store of
    rdflib, which stay live as long as nothing is inferred. Raises `CompiledGraphError` for a folder that is not whole,
    `SourceError` for RDF that can't be read, and `GraphUnavailableError` or `GraphTimeoutError` for an endpoint that
    does not answer.
    """
    settings = settings or GraphSettings()
    if isinstance(path, str) and is_endpoint(path) and not settings.entailment:
        options = options or LiveOptions()
        return RdflibRetriever(SparqlSource(path, options), settings, options=options)
    if isinstance(path, str | os.PathLike) and Path(path).is_dir():
        return CompiledRetriever(path)
    sources: Sequence[Source] = path if isinstance(path, list | tuple) else [path]  # type: ignore[list-item]
    with prepared(sources, settings) as ready:
        first = ready.sources[0] if len(ready.sources) == 1 and not ready.inferred else None
        graph = first if isinstance(first, rdflib.Graph) else to_dataset(ready.quads())
        return RdflibRetriever(graph, settings, ready.hashes, options=options)
