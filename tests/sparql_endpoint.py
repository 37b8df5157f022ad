"""A SPARQL 1.1 endpoint over HTTP on 127.0.0.1, with Oxigraph behind it, that can be told to misbehave."""

import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyoxigraph as ox


class Endpoint:
    """`mode` is "answer", "hang", "drip", "fail", "nonsense" or "page"; `queries` are those that came."""

    def __init__(self, path: Path | None = None) -> None:
        self.store = ox.Store()
        if path is not None:
            self.store.bulk_load(path=str(path), format=ox.RdfFormat.from_extension(path.suffix[1:]))
        self.mode = "answer"
        self.queries: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.results = ox.QueryResultsFormat.JSON
        self.union = False
        self.most_rows: int | None = None
        self.released = threading.Event()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                endpoint.headers.append(dict(self.headers))
                endpoint.answer(self, urllib.parse.parse_qs(body)["query"][0])

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/sparql"

    def answer(self, to: BaseHTTPRequestHandler, query: str) -> None:
        self.queries.append(query)
        if self.mode == "hang":
            self.released.wait(60)
            return
        status, media_type, body = 200, self.results.media_type, b""
        if self.mode == "fail":
            status, media_type, body = 500, "text/plain", b"out of memory"
        elif self.mode == "nonsense":
            body = b"<html>"
        elif self.mode == "page":
            media_type, body = "text/html", b"<html>"
        else:
            found = self.store.query(query, use_default_graph_as_union=self.union)
            body = found.serialize(format=self.results)
            if self.most_rows is not None and "OFFSET" in query:
                body = _cut(query, self.most_rows, self.store)
        to.send_response(status)
        to.send_header("Content-Type", media_type)
        if self.mode == "drip":
            to.end_headers()
            while not self.released.wait(0.02):
                to.wfile.write(b" ")
            return
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body)


def _cut(query: str, rows: int, store: ox.Store) -> bytes:
    head, _, tail = query.rpartition("LIMIT ")
    limit, _, offset = tail.partition(" ")
    found = store.query(f"{head}LIMIT {min(rows, int(limit))} {offset}")
    return found.serialize(format=ox.QueryResultsFormat.JSON)


@contextmanager
def running(path: Path | None = None) -> Iterator[Endpoint]:
    endpoint = Endpoint(path)
    thread = threading.Thread(target=endpoint.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield endpoint
    finally:
        endpoint.released.set()
        endpoint.server.shutdown()
        endpoint.server.server_close()
        thread.join()
