"""A SPARQL 1.1 endpoint on 127.0.0.1: pyoxigraph behind http.server, with the bad habits that real ones have."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs

import pyoxigraph as ox


@dataclass
class SparqlEndpoint:
    """What is served, how badly, and the queries that came.

    `union`: the default graph is the union of all graphs. `cut`: most triples of one answer. `statuses` are given, one
    a request, before answers are; `broken` answers are cut off in the middle. `pause` seconds go by before each byte.
    """

    store: ox.Store
    union: bool = False
    cut: int | None = None
    statuses: list[int] = field(default_factory=list)
    broken: int = 0
    pause: float = 0.0
    media_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    queries: list[str] = field(default_factory=list)
    seen: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    def answer(self, query: str) -> tuple[bytes, str]:
        found: Any = self.store.query(query, use_default_graph_as_union=self.union)
        if isinstance(found, ox.QueryTriples):
            triples = list(found)[: self.cut]
            return ox.serialize(triples, format=ox.RdfFormat.N_TRIPLES) or b"", "application/n-triples"
        return found.serialize(format=ox.QueryResultsFormat.JSON), "application/sparql-results+json"


class _Handler(BaseHTTPRequestHandler):
    endpoint: SparqlEndpoint

    def do_POST(self) -> None:
        endpoint = self.endpoint
        query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["query"][0]
        endpoint.queries.append(query)
        endpoint.seen.append(dict(self.headers))
        if endpoint.statuses:
            status = endpoint.statuses.pop(0)
            body = b"out of\norder"
            self.send_response(status)
            for name, value in endpoint.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        body, media_type = endpoint.answer(query)
        self.send_response(200)
        self.send_header("Content-Type", endpoint.media_type or media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if endpoint.broken and media_type == "application/n-triples":
            endpoint.broken -= 1
            self.wfile.write(body[: len(body) // 2])
            return
        if endpoint.pause:
            try:
                for place in range(len(body)):
                    self.wfile.write(body[place : place + 1])
                    self.wfile.flush()
                    time.sleep(endpoint.pause)
            except OSError:
                return  # the client has gone
        else:
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serve_sparql(data: str, **habits: Any) -> Iterator[SparqlEndpoint]:
    """Serve TriG until the block ends."""
    store = ox.Store()
    store.load(data.encode(), format=ox.RdfFormat.TRIG)
    endpoint = SparqlEndpoint(store, **habits)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"endpoint": endpoint}))
    endpoint.url = f"http://127.0.0.1:{server.server_port}/sparql"
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
