"""The knowledge graph: RDF in, compiled graph out, link, retrieve, verbalise."""

import os
from collections.abc import Sequence
from pathlib import Path

import rdflib

from groundwire.kg.compile import compile_graph
from groundwire.kg.compiled import CompiledRetriever
from groundwire.kg.endpoint import Endpoint
from groundwire.kg.errors import (
    CompiledGraphError,
    GraphError,
    GraphWarning,
    SourceError,
    UnknownEntityError,
    ValidationError,
)
from groundwire.kg.prepare import prepared
from groundwire.kg.rdf import RdflibRetriever
from groundwire.kg.read import Source, load_dataset, to_dataset
from groundwire.kg.report import read_report
from groundwire.kg.settings import GraphSettings
from groundwire.kg.shapes import ShapeReport, ShapeResult, check_shapes
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
    "GraphWarning",
    "Grounding",
    "Mention",
    "RdflibRetriever",
    "Retriever",
    "ShapeReport",
    "ShapeResult",
    "SourceError",
    "Term",
    "UnknownEntityError",
    "ValidationError",
    "WordVectors",
    "check_shapes",
    "compile_graph",
    "load_dataset",
    "open_graph",
    "read_report",
    "verbalise",
    "verbalise_evidence",
]


def open_graph(path: Source | Sequence[Source], settings: GraphSettings | None = None) -> Retriever:
    """Open a compiled folder with the compiled retriever, or sources with the rdflib retriever.

    Sources are what `compile_graph` takes. `settings` count for them only: a compiled folder holds its own. They
    are read once, into memory, but for a single graph or store of rdflib, which stays live as long as nothing is
    inferred. Raises `CompiledGraphError` for a folder that is not whole and `SourceError` for RDF that can't be read.
    """
    if isinstance(path, str | os.PathLike) and Path(path).is_dir():
        return CompiledRetriever(path)
    sources: Sequence[Source] = path if isinstance(path, list | tuple) else [path]  # type: ignore[list-item]
    settings = settings or GraphSettings()
    with prepared(sources, settings) as ready:
        first = ready.sources[0] if len(ready.sources) == 1 and not ready.inferred else None
        graph = first if isinstance(first, rdflib.Graph) else to_dataset(ready.quads())
        return RdflibRetriever(graph, settings, ready.hashes)
