"""What JSON-LD contexts and RDF/XML entities may cost: hostile ones are refused in time, useful ones are read."""

import io
import json
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyoxigraph import RdfFormat

from groundwire.kg import SourceError
from groundwire.kg.contexts import measure
from groundwire.kg.guard import GuardedStream
from groundwire.kg.read import read_quads

E = "http://e.org/"
RDF_XML = (
    '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY e "%s">]>'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:e="http://e.org/">%s</rdf:RDF>'
)
NODE = '<rdf:Description rdf:about="http://e.org/s"><e:p>%s</e:p></rdf:Description>'


def terms(count: int) -> dict[str, Any]:
    return {f"t{n}": f"{E}{n}" for n in range(count)}


def chain(count: int, key: str) -> dict[str, Any]:
    """A context whose terms are each defined by the next: the parser takes one call a term."""
    links = {f"t{n}": f"t{n + 1}:x" if not key else {"@id": E, key: f"t{n + 1}"} for n in range(count)}
    return {"@context": {**links, f"t{count}": E}, "@id": E + "s", "t0": "v"}


def scoped(name: str, count: int) -> dict[str, Any]:
    return {**terms(count), name: {"@id": E + name, "@context": {"q": E + "q"}}}


def nested(levels: int, count: int) -> dict[str, Any]:
    node: dict[str, Any] = {"@id": E + "s"}
    for _ in range(levels):
        node = {"@context": {"q": E + "q"}, E + "p": node}
    return {"@context": terms(count), E + "p": node}


def nodes(count: int, node: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"@id": f"{E}{n}", **node} for n in range(count)]


N = 1500
HOSTILE = {
    "prefixes": chain(8000, ""),
    "ids": chain(8000, "@id"),
    "types": chain(8000, "@type"),
    "reverses": chain(8000, "@reverse"),
    "circle": {"@context": {**{f"t{n}": f"t{(n + 1) % 8000}:x" for n in range(8000)}}, "t0": "v"},
    "a context for each node": {"@context": terms(N), "@graph": nodes(N, {"@context": {}, "t0": "v"})},
    "no context for each node": {"@context": terms(N), "@graph": nodes(N, {"@context": None})},
    "a context at the end": {"@graph": nodes(N, {"@context": {}, E + "p": "v"}), "@context": terms(N)},
    "a term's context": {"@context": scoped("p", N), "@graph": nodes(N, {"p": {"q": "v"}})},
    "a term's context for each value": {"@context": scoped("p", N), "p": [str(n) for n in range(N)]},
    "a term's context for each number": {"@context": scoped("p", N), "p": list(range(N))},
    "a term's context, at the end": {"@graph": nodes(N, {"p": "v"}), "@context": scoped("p", N)},
    "a type's context": {"@context": scoped("T", N), "@graph": nodes(N, {"@type": "T", "q": "v"})},
    "many types": {"@context": scoped("T", N), "@id": E, "@type": ["T"] * N},
    "a context in each term": {"@context": {f"t{n}": {"@id": E, "@context": {}} for n in range(N)}, "t0": "v"},
    "memory": nested(240, 6000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_contexts_that_multiply_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hostile.jsonld"
    text = json.dumps(HOSTILE[name])
    # The parser reads escapes in a key as well.
    path.write_text(text.replace("@context", "\\u0040conte\\u0078t") if name == "ids" else text)
    with pytest.raises(SourceError, match=r"hostile\.jsonld, line 1: .*context.*; (put|give)"):
        list(read_quads(path))


USEFUL = {
    "a large vocabulary": ({"@context": terms(N), "@graph": nodes(N, {"t0": "v"})}, N),
    "a chain that ends": (chain(400, "@id"), 1),
    "terms of one prefix": ({"@context": {"e": E, **{f"t{n}": f"e:{n}" for n in range(8000)}}, "t0": "v"}, 1),
    "documents in a row": ([{"@context": {"a": E}, "@id": f"a:{n}", "a:p": "v"} for n in range(5000)], 5000),
    "a context for each node": ({"@context": terms(50), "@graph": nodes(N, {"@context": {"x": E}, "x": "v"})}, N),
    "a term's context": ({"@context": scoped("p", 50), "@graph": nodes(N, {"p": {"q": "v"}})}, 2 * N),
    "a type's context": ({"@context": scoped("T", 50), "@graph": nodes(N, {"@type": "T", "q": "v"})}, 2 * N),
    "a context at the end": ({"@graph": nodes(N, {"t0": "v"}), "@context": terms(50)}, N),
    "the word as a value": ({"@id": E + "s", E + "p": ["@context", "\\u0040context", "{"]}, 3),
}


@pytest.mark.parametrize("name", USEFUL)
def test_contexts_that_are_useful_are_read(tmp_path: Path, name: str) -> None:
    document, count = USEFUL[name]
    path = tmp_path / "useful.jsonld"
    path.write_text(json.dumps(document))
    assert sum(1 for _ in read_quads(path)) == count


def test_a_context_is_measured() -> None:
    text = '[{"a": "x:", "@vocab": "v:"}, null, {"b": "x:", "c": {"@id": "x:", "@context": [{"d": "x:"}]}}]'
    found = measure(json.loads(text, object_pairs_hook=tuple))
    assert (found.terms, found.fresh, found.nested, found.scoped) == (3, True, 1, {"c": 1})


names = st.sampled_from(["@context", "a", "p", "@type", 'quote"', "back\\slash", "{[", "é" * 3])
values = st.recursive(
    st.one_of(st.none(), st.integers(), names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(names, values, max_size=5), st.integers(1, 9))
def test_contexts_are_found_however_the_file_is_cut(document: dict[str, Any], size: int) -> None:
    data = json.dumps(document, ensure_ascii=False).encode()

    def seen(block: int) -> tuple[Any, ...]:
        stream = GuardedStream(io.BytesIO(data), RdfFormat.JSON_LD, "x")
        while stream.read(block):
            pass
        watch: Any = stream._watch
        return stream.depth, watch._copied, watch._scoped, watch._open

    assert seen(size) == seen(1 << 20)
    assert seen(size)[0] == 0


@pytest.mark.parametrize(
    "text",
    [
        RDF_XML % ("x" * 1000, NODE % ("&e;" * 1_000_000)),
        RDF_XML % ("x" * 1000, (NODE % ("&e;" * 1_000_000)).replace("<e:p>", '<e:p rdf:parseType="Literal">')),
        RDF_XML % (E + "x" * 900, (NODE % "v").replace("http://e.org/s", "&e;" * 80_000)),
    ],
)
def test_entities_that_multiply_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "laughs.rdf"
    path.write_text(text)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SourceError, match=r"laughs\.rdf, line 1: grows .* by its entities; write"):
        list(read_quads(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


def test_entities_for_namespaces_are_read_however_many(tmp_path: Path) -> None:
    path = tmp_path / "ontology.owl"
    namespace = E + "a/namespace/of/ordinary/length#"
    node = '<rdf:Description rdf:about="&e;s%d"><rdf:type rdf:resource="&e;C"/></rdf:Description>\n'
    path.write_text(RDF_XML % (namespace, "".join(node % n for n in range(20_000))))
    assert sum(1 for quad in read_quads(path) if quad[2] == namespace + "C") == 20_000
