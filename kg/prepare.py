"""What every retriever is made from: the quads of all sources, those inferred from them, the sources' hashes.

Endpoints are fetched once, into a temporary N-Quads file, so that each later pass reads the same quads and memory does
not grow. Without reasoning, quads are streamed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import rdflib

from groundwire.kg.endpoint import Endpoint, is_endpoint
from groundwire.kg.fetch import fetch
from groundwire.kg.read import Source, as_graph, read_all, source_hashes
from groundwire.kg.reason import infer
from groundwire.kg.settings import GraphSettings
from groundwire.kg.terms import Quad

Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """Sources that can be read any number of times, the quads inferred from them, and inconsistencies found on the way.

    `hashes` are those of the sources by name, as `source_hashes` gives them; an endpoint's name is its URL.
    """

    sources: tuple[Path | rdflib.Graph, ...]
    hashes: dict[str, str]
    inferred: tuple[Quad, ...] = ()
    inconsistencies: tuple[str, ...] = ()

    def quads(self) -> Iterator[Quad]:
        """Stream the quads of the sources, then the inferred ones. Blank nodes have the same names each time."""
        yield from read_all(self.sources)
        yield from self.inferred


@contextmanager
def prepared(
    sources: Sequence[Source], settings: GraphSettings, progress: Progress | None = None
) -> Iterator[Prepared]:
    """Fetch and reason as the sources and settings ask. What was fetched is gone when the block ends.

    Raises `SourceError` for a source that can't be read, `GraphError` when reasoning is not possible.
    """
    report = progress or (lambda step, count: None)
    with TemporaryDirectory(prefix="groundwire-") as folder:
        ready: list[Path | rdflib.Graph] = []
        known: dict[int, tuple[str, str]] = {}
        for number, source in enumerate(sources):
            if is_endpoint(source):
                endpoint = source if isinstance(source, Endpoint) else Endpoint(str(source))
                ready.append(Path(folder) / f"{number}.nq")
                known[number] = endpoint.shown, fetch(endpoint, Path(folder) / f"{number}.nq", report)
            else:
                graph = as_graph(source)
                ready.append(graph if graph is not None else Path(source))  # type: ignore[arg-type]
        plain = Prepared(tuple(ready), source_hashes(ready, known))
        if not settings.entailment:
            yield plain
            return
        inference = infer(plain.quads(), settings, report)
        yield replace(plain, inferred=inference.quads, inconsistencies=inference.inconsistencies)
