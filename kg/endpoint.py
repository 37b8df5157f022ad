"""A SPARQL 1.1 endpoint: queries over HTTP (SPARQL 1.1 Protocol, section 2.1), with time limits and retries.

What is behind it is fetched whole by `groundwire.kg.fetch`; `groundwire.kg.sparql_source` asks it pattern by pattern.
"""

import email.message
import io
import json
import re
import time
import urllib.error
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import pyoxigraph as ox

from groundwire.kg.errors import SourceError
from groundwire.kg.guard import guarded
from groundwire.kg.sparql_http import post_query

_TRIPLES = "application/n-triples, text/turtle;q=0.8, application/rdf+xml;q=0.5"
_SYNTAXES = (ox.RdfFormat.N_TRIPLES, ox.RdfFormat.TURTLE, ox.RdfFormat.RDF_XML)  # those that are asked for
_ROWS = "application/sparql-results+json"
_MOST_BYTES = 1 << 30  # of one answer
_LONGEST_WAIT = 60.0  # seconds between two tries, whatever the server asks for
_TOO_MANY = 429
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_endpoint(source: object) -> bool:
    """Whether a source is an endpoint or a URL; one that no endpoint can have is refused when it is made one."""
    return isinstance(source, Endpoint) or (isinstance(source, str) and _URL.match(source) is not None)


def without_secrets(url: str) -> str:
    """A URL as messages, logs and hashes may name it: without user, password, query and fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:  # brackets that don't match
        return url.partition("?")[0].rpartition("@")[2]
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The URL of a SPARQL 1.1 query endpoint (http or https) and how to ask it.

    `page` triples are asked for at once; `timeout` seconds are given to each answer as a whole; a request that fails
    for a reason that may pass (a 5xx status, 429, a broken connection, no answer in time) is tried `retries` times
    more, after `backoff` seconds and twice as long each time. `headers` go with each request, as `Authorization` may.
    Raises `SourceError` for a URL of another scheme or with a password inside.
    """

    url: str
    page: int = 10_000
    timeout: float = 60.0
    retries: int = 4
    backoff: float = 0.5
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)  # may hold a password

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
        except ValueError as error:
            raise SourceError(f"{self.shown}: no URL: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SourceError(
                f"{self.shown}: no URL of a SPARQL endpoint; it starts with http:// or https:// and a host"
            )
        if parts.username is not None or parts.password is not None:
            raise SourceError(f"{self.shown}: a URL is no place for a password; give an Authorization header instead")
        if self.page < 1 or self.timeout <= 0 or self.retries < 0 or self.backoff < 0:
            raise SourceError(f"{self.shown}: page and timeout must be above 0, retries and backoff not below 0")

    @property
    def shown(self) -> str:
        """The URL as messages and hashes name it: without user, password, query and fragment."""
        return without_secrets(self.url)

    def construct(self, query: str, what: str) -> list[ox.Triple]:
        """The triples of a CONSTRUCT query. `what` names them in messages. Raises `SourceError`."""
        body, media_type = self._ask(query, _TRIPLES, what)
        syntax = ox.RdfFormat.from_media_type(media_type) if media_type else None
        if syntax not in _SYNTAXES:
            raise SourceError(
                f"{self.shown}, {what}: the answer is {media_type or 'of no type'}, not RDF; is this a SPARQL endpoint?"
            )
        try:
            stream = guarded(io.BytesIO(body), syntax, f"{self.shown}, {what}")
            return [quad.triple for quad in ox.parse(stream, format=syntax)]
        except (SyntaxError, ValueError) as error:
            raise SourceError(f"{self.shown}, {what}: the answer is not valid {syntax.name}: {error}") from error

    def select(self, query: str, what: str) -> list[dict[str, dict[str, str]]]:
        """The rows of a SELECT query, each variable as the JSON results format gives it. Raises `SourceError`."""
        document = self._json(query, what)
        try:
            rows = [
                {name: {key: str(value) for key, value in cell.items()} for name, cell in row.items()}
                for row in document["results"]["bindings"]
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise SourceError(f"{self.shown}, {what}: the answer holds no rows ({error!r})") from error
        return rows

    def ask(self, query: str, what: str) -> bool:
        """The answer to an ASK query. Raises `SourceError`."""
        document = self._json(query, what)
        answer = document.get("boolean") if isinstance(document, dict) else None
        if not isinstance(answer, bool):
            raise SourceError(f"{self.shown}, {what}: the answer is neither yes nor no")
        return answer

    def _json(self, query: str, what: str) -> Any:
        body, _ = self._ask(query, _ROWS, what)
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SourceError(
                f"{self.shown}, {what}: the answer is no SPARQL result in JSON ({error}); is this a SPARQL endpoint?"
            ) from error

    def _ask(self, query: str, accept: str, what: str) -> tuple[bytes, str]:
        """Body and media type of the answer; tries again as long as it may help."""
        wait = self.backoff
        for tries in range(self.retries + 1):
            try:
                headers = {**self.headers, "Accept": accept}
                return post_query(self.url, query, headers, self.timeout, _MOST_BYTES)
            except urllib.error.HTTPError as error:
                reason = f"HTTP status {error.code}"
                if error.code < 500 and error.code != _TOO_MANY:
                    raise SourceError(f"{self.shown}, {what}: {reason}: {_said(error)}") from error
                pause, cause = max(wait, _retry_after(error.headers)), error
            except (OSError, HTTPException) as error:
                reason, pause, cause = str(error) or type(error).__name__, wait, error  # type: ignore[assignment]
            if tries < self.retries:
                time.sleep(min(pause, _LONGEST_WAIT))
                wait *= 2
        raise SourceError(
            f"{self.shown}, {what}: {reason}, after {self.retries + 1} tries; try later, or with smaller pages"
        ) from cause


def _retry_after(headers: email.message.Message) -> float:
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _said(error: urllib.error.HTTPError) -> str:
    """What the server said, for people: one line of at most 200 characters, or where it points to."""
    if 300 <= error.code < 400:
        return f"it points to {error.headers.get('Location')}; give that URL instead"
    stream: IO[bytes] = error
    try:
        said = stream.read(2000)
    except (OSError, HTTPException):  # it broke off, or goes on for ever
        said = b""
    return " ".join(said.decode("utf-8", "replace").split())[:200] or error.reason
