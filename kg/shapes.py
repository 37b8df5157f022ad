"""Validation: a graph held to SHACL shapes (W3C Recommendation 2017, SHACL Core), with a report.

pyshacl does the work, on a copy of data and shapes made for each call, since it writes into both. Nothing reaches the
network or runs code of the shapes: `owl:imports` are not fetched, and shapes that hold SPARQL or JavaScript, which
could, are refused. The data are the union of all named graphs, in memory as a whole, before fusion.
"""

import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import rdflib
from rdflib.collection import Collection
from rdflib.namespace import OWL, RDF, SH

from groundwire.kg.errors import GraphError, GraphWarning, ValidationError
from groundwire.kg.lists import check_lists
from groundwire.kg.read import FileOrGraph, node_key, read_all
from groundwire.kg.terms import Quad, is_blank, is_literal, literal_parts

_SHACL = str(SH)
_CODE = frozenset(
    _SHACL + name
    for name in (
        "sparql",
        "select",
        "ask",
        "construct",
        "update",
        "js",
        "jsLibrary",
        "jsLibraryURL",
        "jsFunctionName",
        "rule",
    )
)
_SUFFIXES = {SH.zeroOrMorePath: "*", SH.oneOrMorePath: "+", SH.zeroOrOnePath: "?"}
_DEEPEST_PATH = 32
# pyshacl changes how rdflib reads booleans for the whole process while it loads: one at a time.
_LOCK = threading.Lock()


@dataclass(frozen=True, slots=True)
class ShapeResult:
    """One result: terms in their string form (`groundwire.kg.terms`), empty where there is none.

    `severity` is `violation`, `warning`, `info`, or the IRI of another; `path` is a SPARQL property path; `component`
    is the IRI of the constraint component, and `shape` the shape that holds it.
    """

    severity: str
    focus_node: str
    path: str
    value: str
    message: str
    shape: str
    component: str


@dataclass(frozen=True, slots=True)
class ShapeReport:
    """The results, by severity (violations first), focus node, path, value and message."""

    results: tuple[ShapeResult, ...]

    @property
    def violations(self) -> int:
        """How many results are violations."""
        return sum(result.severity == "violation" for result in self.results)

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "conforms": not self.results,
            "violations": self.violations,
            "results": [asdict(result) for result in self.results],
        }

    def to_text(self) -> str:
        """The report for people, one result a line after a line of numbers."""
        if not self.results:
            return "The graph conforms to the shapes.\n"
        counts = Counter(result.severity for result in self.results)
        lines = [", ".join(f"{severity}: {count:,}" for severity, count in sorted(counts.items(), key=_by_severity))]
        for result in self.results:
            path = f" {result.path}" if result.path else ""
            value = f" (value {result.value})" if result.value else ""
            lines.append(f"{result.severity}: {result.focus_node}{path}: {result.message}{value}")
        return "\n".join(lines) + "\n"

    def raise_for_violations(self) -> None:
        """Raise `ValidationError` that tells the first violations, if there are any."""
        if self.violations:
            first = [result for result in self.results if result.severity == "violation"][:3]
            shown = "; ".join(f"{one.focus_node} {one.path}: {one.message}" for one in first)
            more = "; …" if self.violations > len(first) else ""
            raise ValidationError(
                f"{self.violations:,} violations of the shapes: {shown}{more}; correct the graph or the shapes"
            )


def _by_severity(item: tuple[str, Any]) -> tuple[int, str]:
    known = ("violation", "warning", "info")
    return (known.index(item[0]) if item[0] in known else len(known)), item[0]


def check_shapes(quads: Iterable[Quad], shapes: Sequence[FileOrGraph]) -> ShapeReport:
    """Hold the quads to the shapes.

    Raises `SourceError` for shapes that can't be read, and `ValidationError` for shapes that can't be used: none there,
    malformed, or with SPARQL or JavaScript. Warns with `GraphWarning` of `owl:imports`, which are not fetched.
    """
    try:
        from pyshacl import validate  # noqa: PLC0415 - an extra
        from pyshacl.errors import ReportableRuntimeError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name != "pyshacl":
            raise
        raise ValidationError("validation needs pyshacl: pip install 'groundwire[reason]'") from error
    rules = list(read_all(shapes))
    _refuse(rules)
    shapes_graph, data = _graph(rules), _graph(quads)
    with _LOCK:
        normalise = rdflib.NORMALIZE_LITERALS
        try:
            _, found, text = validate(
                data,
                shacl_graph=shapes_graph,
                inference="none",
                inplace=True,
                advanced=False,
                js=False,
                do_owl_imports=False,
                meta_shacl=False,
            )
        except re.error as error:
            raise ValidationError(
                f"the shapes can't be used: the sh:pattern {error.pattern!r} is no regular expression ({error}); "
                "correct it"
            ) from error
        except (ReportableRuntimeError, RecursionError, ValueError, TypeError) as error:
            told = " ".join(str(error).split())
            raise ValidationError(f"the shapes can't be used: {told}; correct them") from error
        finally:
            rdflib.NORMALIZE_LITERALS = normalise
    if not isinstance(found, rdflib.Graph):
        raise ValidationError(f"the shapes can't be used: {text}; correct them")
    results = (_result(found, node) for node in found.subjects(RDF.type, SH.ValidationResult))
    return ShapeReport(
        tuple(sorted(results, key=lambda one: (_by_severity((one.severity, None)), *asdict(one).values())))
    )


def _refuse(rules: Sequence[Quad]) -> None:
    if not any(p.startswith(_SHACL) or o in (SH.NodeShape, SH.PropertyShape) for _, p, o, _ in rules):
        raise ValidationError("the shapes hold no SHACL shape: is it the right file?")
    code = next((f"{s} {p}" for s, p, _, _ in rules if p in _CODE), None)
    if code:
        raise ValidationError(
            f"the shapes hold SPARQL or JavaScript ({code}), which could reach the network: only SHACL Core is used; "
            "take it out of the shapes"
        )
    imports = sorted({o for _, p, o, _ in rules if p == str(OWL.imports)})
    try:
        check_lists([quad[:3] for quad in rules], _SHACL)
    except GraphError as error:
        raise ValidationError(f"the shapes can't be used: {error}") from error
    if imports:
        warnings.warn(
            f"the shapes import {', '.join(imports)}: imports are not fetched; give these files as shapes too",
            GraphWarning,
            stacklevel=3,
        )


def _graph(quads: Iterable[Quad]) -> rdflib.Graph:
    graph = rdflib.Graph()
    for s, p, o, _ in quads:
        graph.add((_node(s), rdflib.URIRef(p), _node(o)))
    return graph


def _node(key: str) -> Any:
    if is_blank(key):
        return rdflib.BNode(key[2:])
    if not is_literal(key):
        return rdflib.URIRef(key)
    value, datatype, language = literal_parts(key)
    # Not normalised: what is validated is the literal as written.
    return rdflib.Literal(
        value, lang=language or None, datatype=rdflib.URIRef(datatype) if datatype else None, normalize=False
    )


def _result(graph: rdflib.Graph, node: Any) -> ShapeResult:
    def one(predicate: Any) -> str:
        found = graph.value(node, predicate)
        return "" if found is None else node_key(found)

    severity = one(SH.resultSeverity)
    path = graph.value(node, SH.resultPath)
    return ShapeResult(
        severity=severity.removeprefix(_SHACL).lower() if severity.startswith(_SHACL) else severity,
        focus_node=one(SH.focusNode),
        path="" if path is None else _path(graph, path, 0),
        value=one(SH.value),
        message="; ".join(sorted(str(text) for text in graph.objects(node, SH.resultMessage))),
        shape=one(SH.sourceShape),
        component=one(SH.sourceConstraintComponent),
    )


def _path(graph: rdflib.Graph, node: Any, depth: int) -> str:
    """A SHACL property path as SPARQL writes it (SHACL, section 2.3.1)."""
    if not isinstance(node, rdflib.BNode) or depth > _DEEPEST_PATH:
        return node_key(node)
    if graph.value(node, RDF.first) is not None:
        return "/".join(_path(graph, step, depth + 1) for step in Collection(graph, node))
    inverse = graph.value(node, SH.inversePath)
    if inverse is not None:
        return f"^{_path(graph, inverse, depth + 1)}"
    either = graph.value(node, SH.alternativePath)
    if either is not None:
        return f"({'|'.join(_path(graph, step, depth + 1) for step in Collection(graph, either))})"
    for predicate, suffix in _SUFFIXES.items():
        repeated = graph.value(node, predicate)
        if repeated is not None:
            return f"({_path(graph, repeated, depth + 1)}){suffix}"
    return node_key(node)
