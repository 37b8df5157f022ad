"""A SPARQL 1.1 endpoint as a source of quads: patterns one at a time, names page by page (SPARQL 1.1 Protocol, POST).

Named graphs are asked for with GRAPH. Some endpoints show what is in a named graph in the default graph too; then the
named graph alone counts.
"""

import base64
import json
import re
import urllib.error
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from typing import Any

import pyoxigraph as ox

from groundwire.kg.endpoint import without_secrets
from groundwire.kg.errors import GraphTimeoutError, GraphUnavailableError, SourceError
from groundwire.kg.guard import check_nesting
from groundwire.kg.labels import LabelRules
from groundwire.kg.settings import RDF_TYPE
from groundwire.kg.source import Contents, LiveOptions, QuadSource
from groundwire.kg.sparql_http import post_query
from groundwire.kg.terms import Quad, is_iri, literal_key, literal_parts
from groundwire.kg.time_limit import remaining, within_limit
from groundwire.surrogates import SURROGATE

MOST_ROWS = 50_000  # read of one pattern: a hub has more triples than are ever ranked
_MOST_BYTES = 256 << 20  # of one answer
_PAGE_SECONDS = 60.0
_ACCEPT = "application/sparql-results+json, application/sparql-results+xml;q=0.8"
_NOT_IN_IRI = re.compile(r'[\x00-\x20<>"{}|^`\\]')
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_EVERYWHERE = "{ %s } UNION { GRAPH ?g { %s } }"

Row = dict[str, str]


class SparqlSource(QuadSource):
    """The endpoint at `url`; `http://user:password@host/…` sends both as HTTP Basic.

    Nothing is asked until `contents` is.
    """

    remote = True

    def __init__(self, url: str, options: LiveOptions) -> None:
        self.name = without_secrets(url)
        try:
            parts = urllib.parse.urlsplit(url)
        except ValueError as error:
            raise SourceError(f"{self.name}: no URL: {error}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise SourceError(f"{self.name}: no SPARQL endpoint: it starts with http:// or https:// and a host")
        self._url = urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))
        self._options = options
        self._headers = {"Accept": _ACCEPT}
        if parts.username is not None:
            user = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        self._union = False

    def contents(self, rules: LabelRules) -> Contents:
        """All quads of a graph of at most `whole_triples`, otherwise those that name and describe."""
        everything = _EVERYWHERE % (("?s ?p ?o",) * 2)
        counts = self._rows(
            "SELECT (COUNT(*) AS ?n) (COUNT(DISTINCT ?g) AS ?graphs) WHERE { "
            f"SELECT DISTINCT ?s ?p ?o ?g WHERE {{ {everything} }} }}"
        )
        with self._expecting("counts"):
            total, graphs = (int(literal_parts(counts[0][name])[0]) for name in ("n", "graphs"))
        self._union = graphs > 0 and not self._ask("GRAPH ?g { ?s ?p ?o } FILTER NOT EXISTS { ?s ?p ?o }")
        if total <= self._options.whole_triples:
            return Contents(self._pages(everything))
        naming = " ".join(f"<{iri}>" for iri in sorted(rules.not_evidence))
        fusing = ", ".join(f"<{iri}>" for iri in sorted(rules.fusing))
        named = f"VALUES ?p {{ {naming} }} ?s ?p ?o FILTER(isLiteral(?o) || ?p IN ({fusing}))"
        by_predicate = self._rows(
            f"SELECT ?p (COUNT(*) AS ?n) WHERE {{ {_EVERYWHERE % (('?s ?p ?o',) * 2)} }} GROUP BY ?p"
        )
        with self._expecting("counts"):
            said = {row["p"]: int(literal_parts(row["n"])[0]) for row in by_predicate}
        return Contents(
            self._pages(_EVERYWHERE % (named, named)),
            whole=False,
            schema=set(said) | self._schema(rules),
            said={p: n for p, n in said.items() if p not in rules.not_evidence},
            triples=sum(n for p, n in said.items() if p not in rules.not_evidence),
            named_graphs=graphs,
        )

    def _schema(self, rules: LabelRules) -> set[str]:
        classes = " ".join(f"<{iri}>" for iri in sorted(rules.schema_classes))
        typed = f"?x <{RDF_TYPE}> ?t"
        declared = f"VALUES ?c {{ {classes} }} ?t <{RDF_TYPE}> ?c"
        found: set[str] = set()
        for pattern in (_EVERYWHERE % (typed, typed), _EVERYWHERE % (declared, declared)):
            rows = self._rows(f"SELECT DISTINCT ?t WHERE {{ {pattern} }}")
            with self._expecting("types"):
                found.update(row["t"] for row in rows)
        return found

    def outgoing(self, key: str) -> set[Quad]:
        """The quads with this subject, at most 50,000."""
        term = _written(key)
        if term is None or not is_iri(key):
            return set()
        pattern = f"{term} ?p ?o"
        return self._quads(f"SELECT ?p ?o ?g WHERE {{ {_EVERYWHERE % (pattern, pattern)} }} LIMIT {MOST_ROWS}", s=key)

    def incoming(self, key: str) -> set[Quad]:
        """The quads with this object, at most 50,000."""
        term = _written(key)
        if term is None:
            return set()
        pattern = f"?s ?p {term}"
        return self._quads(f"SELECT ?s ?p ?g WHERE {{ {_EVERYWHERE % (pattern, pattern)} }} LIMIT {MOST_ROWS}", o=key)

    def holds(self, iri: str) -> bool:
        """Whether some quad has the IRI as subject, predicate or object."""
        term = _written(iri) if is_iri(iri) else None
        if term is None:
            return False
        patterns = (f"{term} ?p ?o", f"?s ?p {term}", f"?s {term} ?o")
        return self._ask(" UNION ".join(f"{{ {_EVERYWHERE % (pattern, pattern)} }}" for pattern in patterns))

    def _pages(self, where: str) -> Iterator[Quad]:
        """The rows of a pattern page by page, ordered, so that pages neither overlap nor leave a gap."""
        offset = 0
        seen: set[tuple[str, str, str]] = set()
        # Named graphs first, so that what they hold is known when the default graph shows it again.
        order = "ORDER BY DESC(BOUND(?g)) ?s ?p ?o ?g" if self._union else "ORDER BY ?s ?p ?o ?g"
        while True:
            rows = self._rows(
                f"SELECT DISTINCT ?s ?p ?o ?g WHERE {{ {where} }} {order} "
                f"LIMIT {self._options.page_rows} OFFSET {offset}"
            )
            if not rows:
                return
            offset += len(rows)  # endpoints may give fewer than were asked for
            for row in rows:
                with self._expecting("triples"):
                    triple, graph = (row["s"], row["p"], row["o"]), row.get("g", "")
                if self._union:
                    if graph:
                        seen.add(triple)
                    elif triple in seen:
                        continue
                yield (*triple, graph)

    def _quads(self, query: str, **bound: str) -> set[Quad]:
        rows = [bound | row for row in self._rows(query)]
        with self._expecting("triples"):
            quads: set[Quad] = {(row["s"], row["p"], row["o"], row.get("g", "")) for row in rows}
        if self._union:
            named = {quad[:3] for quad in quads if quad[3]}
            quads = {quad for quad in quads if quad[3] or quad[:3] not in named}
        return quads

    def _ask(self, where: str) -> bool:
        results = self._results(f"ASK {{ {where} }}")
        if not isinstance(results, ox.QueryBoolean):
            raise self._unavailable("answered ASK with rows")
        return bool(results)

    def _rows(self, query: str) -> list[Row]:
        results = self._results(query)
        if not isinstance(results, list):
            raise self._unavailable("answered SELECT without rows")
        return results

    def _results(self, query: str) -> list[Row] | ox.QueryBoolean:
        left = remaining()
        timeout = _PAGE_SECONDS if left is None else max(0.001, left)
        return within_limit(lambda: self._parse(*self._post(query, timeout)), self.name)

    def _post(self, query: str, timeout: float) -> tuple[bytes, str]:
        """Body and media type of the answer to a query. `timeout` in seconds."""
        try:
            return post_query(self._url, query, self._headers, timeout, _MOST_BYTES)
        except urllib.error.HTTPError as error:
            told = ""
            with suppress(OSError, HTTPException):
                told = error.read(300).decode(errors="replace").strip()
            raise self._unavailable(f"answered HTTP {error.code} {error.reason}: {told}") from error
        except TimeoutError as error:
            raise GraphTimeoutError(f"{self.name} did not answer within {timeout:.3g} s") from error
        except urllib.error.URLError as error:
            if isinstance(error.reason, TimeoutError):
                raise GraphTimeoutError(f"{self.name} did not answer within {timeout:.3g} s") from error
            raise self._unavailable(f"can't be reached: {error.reason}") from error
        except (OSError, HTTPException) as error:
            raise self._unavailable(f"broke off: {error}") from error

    def _parse(self, body: bytes, media_type: str) -> list[Row] | ox.QueryBoolean:
        syntax = ox.QueryResultsFormat.from_media_type(media_type)
        if syntax not in {ox.QueryResultsFormat.JSON, ox.QueryResultsFormat.XML}:  # those that are asked for
            raise self._unavailable(f"answered with {media_type}, which holds no SPARQL results; is it an endpoint?")
        results = None
        try:
            check_nesting(body, xml=syntax == ox.QueryResultsFormat.XML, name=self.name)
            results = ox.parse_query_results(body, syntax)
            if isinstance(results, ox.QueryBoolean):
                return results
            names = [variable.value for variable in results.variables]
            return [
                {name: _key(term) for name in names if (term := solution[name]) is not None} for solution in results
            ]
        except (SyntaxError, ValueError, KeyError, SourceError) as error:
            raise self._unavailable(f"sent results that can't be read: {error}") from error
        finally:
            del results  # an iterator of this thread's: the error that holds this frame may end on another

    @contextmanager
    def _expecting(self, what: str) -> Iterator[None]:
        """Around reading rows that may lack what was asked for."""
        try:
            yield
        except (KeyError, IndexError, ValueError) as error:
            raise self._unavailable(f"sent rows without the {what} that were asked for") from error

    def _unavailable(self, what: str) -> GraphUnavailableError:
        return GraphUnavailableError(f"the SPARQL endpoint {self.name} {what}")


def _key(term: Any) -> str:
    if isinstance(term, ox.Literal):
        return literal_key(term.value, term.datatype.value, term.language or "")
    if isinstance(term, ox.BlankNode):
        return f"_:{term.value}"
    if isinstance(term, ox.NamedNode):
        return term.value
    raise ValueError(f"{term} is a triple inside a triple (RDF 1.2), which is not supported")


def _written(key: str) -> str | None:
    """A term in SPARQL; None for one that no query can name: blank nodes, and strings that are no absolute IRI."""
    if key.startswith("_:") or SURROGATE.search(key):
        return None
    if key.startswith('"'):
        value, datatype, language = literal_parts(key)
        if language:
            return f"{_quoted(value)}@{language}" if re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", language) else None
        if datatype and _NOT_IN_IRI.search(datatype):
            return None
        return f"{_quoted(value)}^^<{datatype}>" if datatype else _quoted(value)
    return None if _NOT_IN_IRI.search(key) or not _ABSOLUTE.match(key) else f"<{key}>"


def _quoted(value: str) -> str:
    # JSON's escapes are among SPARQL's, but for those of the characters that take two.
    return json.dumps(value, ensure_ascii=False)
