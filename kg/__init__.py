"""The knowledge graph: RDF in, compiled graph out, link, retrieve, verbalise."""

import os
from collections.abc import Sequence
from pathlib import Path

from groundwire.kg.compile import compile_graph
from groundwire.kg.compiled import CompiledRetriever
from groundwire.kg.errors import (
    CompiledGraphError,
    GraphError,
    GraphTimeoutError,
    GraphUnavailableError,
    SourceError,
    StoreError,
    UnknownEntityError,
)
from groundwire.kg.rdf import RdflibRetriever
from groundwire.kg.read import load_dataset, source_hashes
from groundwire.kg.settings import GraphSettings
from groundwire.kg.source import LiveOptions
from groundwire.kg.sparql_source import SparqlSource, is_endpoint
from groundwire.kg.store import StoreInfo, compile_store, store_info
from groundwire.kg.types import Candidate, Evidence, GraphInfo, Grounding, Mention, Retriever, Term
from groundwire.kg.vectors import WordVectors
from groundwire.kg.verbalise import verbalise, verbalise_evidence

__all__ = [
    "Candidate",
    "CompiledGraphError",
    "CompiledRetriever",
    "Evidence",
    "GraphError",
    "GraphInfo",
    "GraphSettings",
    "GraphTimeoutError",
    "GraphUnavailableError",
    "Grounding",
    "LiveOptions",
    "Mention",
    "RdflibRetriever",
    "Retriever",
    "SourceError",
    "StoreError",
    "StoreInfo",
    "Term",
    "UnknownEntityError",
    "WordVectors",
    "compile_graph",
    "compile_store",
    "load_dataset",
    "open_graph",
    "store_info",
    "verbalise",
    "verbalise_evidence",
]


def open_graph(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    settings: GraphSettings | None = None,
    options: LiveOptions | None = None,
) -> Retriever:
    """Open a compiled folder with the compiled retriever, RDF files or a SPARQL endpoint with the rdflib retriever.

    An endpoint is given by its URL as a string. `settings` count for RDF files and endpoints only: a compiled folder
    holds its own; `options` likewise. Raises `CompiledGraphError` for a folder that is not whole, `SourceError` for RDF
    that can't be read, and `GraphUnavailableError` or `GraphTimeoutError` for an endpoint that does not answer.
    """
    if isinstance(path, str) and is_endpoint(path):
        options = options or LiveOptions()
        return RdflibRetriever(SparqlSource(path, options), settings, options=options)
    if isinstance(path, str | os.PathLike):
        if Path(path).is_dir():
            return CompiledRetriever(path)
        path = [path]
    return RdflibRetriever(load_dataset(path), settings, source_hashes(path), options=options)
