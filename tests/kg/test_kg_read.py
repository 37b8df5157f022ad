import codecs
import gzip
import json
from pathlib import Path

import pytest
import rdflib

from groundwire.kg import SourceError, compile_graph, compile_store, load_dataset, open_graph
from groundwire.kg.read import graph_hash, read_all, read_quads, source_hashes

TRIPLE = ("http://e.org/s", "http://e.org/p", '"œuvre"@fr', "")
NAMED = (*TRIPLE[:3], "http://e.org/g")
FILES = {
    "a.ttl": ('<http://e.org/s> <http://e.org/p> "œuvre"@FR .', TRIPLE),
    "a.nt": ('<http://e.org/s> <http://e.org/p> "\\u0153uvre"@fr .', TRIPLE),
    "a.nq": ('<http://e.org/s> <http://e.org/p> "œuvre"@fr <http://e.org/g> .', NAMED),
    "a.trig": ('<http://e.org/g> { <http://e.org/s> <http://e.org/p> "œuvre"@fr }', NAMED),
    "a.jsonld": (
        json.dumps({"@id": "http://e.org/s", "http://e.org/p": {"@value": "œuvre", "@language": "fr"}}),
        TRIPLE,
    ),
    "a.rdf": (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:e="http://e.org/">'
        '<rdf:Description rdf:about="http://e.org/s"><e:p xml:lang="fr">œuvre</e:p></rdf:Description></rdf:RDF>',
        TRIPLE,
    ),
}


def gzipped(path: Path) -> Path:
    out = path.with_name(path.name + ".gz")
    out.write_bytes(gzip.compress(path.read_bytes()))
    return out


@pytest.mark.parametrize("name", FILES)
def test_every_syntax_plain_and_gzipped(tmp_path: Path, name: str) -> None:
    text, expected = FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert list(read_quads(path)) == [expected]
    assert list(read_quads(gzipped(path))) == [expected]
    assert len(list(load_dataset([path]).quads())) == 1


@pytest.mark.parametrize("name", FILES)
def test_a_byte_order_mark_is_left_out(tmp_path: Path, name: str) -> None:
    text, expected = FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8-sig")
    assert list(read_quads(path)) == [expected]
    assert list(read_quads(gzipped(path))) == [expected]
    path.write_bytes(codecs.BOM_UTF8)
    if name not in ("a.jsonld", "a.rdf"):
        assert list(read_quads(path)) == []
    path.write_text(text, encoding="utf-16")
    with pytest.raises(SourceError, match=rf"{name}: is written in UTF-16; convert it to UTF-8"):
        list(read_quads(path))


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "half.jsonld"
    for text in ('{"@id": "http://e.org/s", "http://e.org/p": "a\\ud800b"}', '{"http://e.org/\\udc00": "a"}'):
        path.write_text(text)
        with pytest.raises(SourceError, match=r"half\.jsonld, line 1: .*surrogate pair .*; write the character"):
            list(read_quads(path))
    path.write_text('{"@id": "http://e.org/s", "http://e.org/p": "\\ud83d\\ude00 and \\\\ud800"}')
    assert [quad[2] for quad in read_quads(path)] == ['"😀 and \\ud800"']


@pytest.mark.parametrize("half", [rdflib.Literal("a\ud800b"), rdflib.URIRef("http://e.org/\ud800")])
def test_half_a_surrogate_pair_in_a_graph_is_refused(tmp_path: Path, half: rdflib.term.Node) -> None:
    graph = rdflib.Graph()
    graph.add((rdflib.URIRef("http://e.org/s"), rdflib.URIRef("http://e.org/p"), half))
    for use in (
        lambda: compile_graph(graph, tmp_path / "graph"),
        lambda: compile_store([graph], tmp_path / "store"),
        lambda: load_dataset([graph]),
        lambda: open_graph(graph),
    ):
        with pytest.raises(SourceError, match="half of a surrogate pair"):
            use()


def test_a_graph_with_an_iri_that_is_none_is_refused_by_a_store(tmp_path: Path) -> None:
    graph = rdflib.Graph()
    graph.add((rdflib.URIRef("http://e.org/a b"), rdflib.URIRef("http://e.org/p"), rdflib.Literal("x")))
    with pytest.raises(SourceError, match=r"a b.*is no RDF"):
        compile_store([graph], tmp_path / "store")


@pytest.mark.parametrize("name", ["a\0.ttl", "a\ud8ff.ttl"])
def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path, name: str) -> None:
    for read in (lambda path: list(read_quads(path)), lambda path: source_hashes([path])):
        with pytest.raises(SourceError, match="can't be opened") as refused:
            read(tmp_path / name)
        str(refused.value).encode()


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.ttl"
    path.write_text('<http://e.org/s> <http://e.org/p> "1" .\n\n<http://e.org/s> <http://e.org/p> .\n')
    with pytest.raises(SourceError, match=r"broken\.ttl, line 3"):
        list(read_quads(path))
    with pytest.raises(SourceError, match=r"broken\.ttl\.gz, line 3"):
        list(read_quads(gzipped(path)))


def test_an_error_far_into_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "long.nt"
    good = "<http://e.org/s> <http://e.org/p> <http://e.org/o> .\n"
    path.write_text(good * 20_000 + "oops\n" + good)
    with pytest.raises(SourceError, match=r"long\.nt, line 20001"):
        sum(1 for _ in read_quads(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"a,b", "tells no RDF syntax"),
        ("a.ttl.gz", b"no gzip", "gzip"),
        ("a.nt.gz", None, "gzip"),
        ("a.ttl", b"\xff\xfe\x00broken", "a.ttl"),
        ("a.rdf", b"<rdf:RDF><a></b>", "a.rdf"),
        ("a.jsonld", b'{"@id":', "line 1"),
    ],
)
def test_what_is_no_rdf_is_refused(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is None:
        whole = tmp_path / "whole.nt"
        whole.write_text("<http://e.org/s> <http://e.org/p> <http://e.org/o> .\n" * 1000)
        content = gzipped(whole).read_bytes()[:-20]
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(read_quads(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.ttl"):
        list(read_quads(tmp_path / "nowhere.ttl"))
    with pytest.raises(SourceError, match=r"nowhere\.ttl"):
        source_hashes([tmp_path / "nowhere.ttl"])


def test_blank_nodes_are_named_the_same_each_time_and_apart_by_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.ttl", tmp_path / "two.ttl"
    for path in (one, two):
        path.write_text("@prefix : <http://e.org/> . [] :p [ :q _:x ] .")
    assert list(read_quads(one)) == list(read_quads(one))
    both = list(read_all([one, two]))
    assert len({quad[0] for quad in both}) == 4


def test_a_graph_in_memory_is_a_source(tmp_path: Path) -> None:
    graph = rdflib.Graph()
    graph.parse(data=FILES["a.ttl"][0], format="turtle")
    assert list(read_quads(graph)) == [TRIPLE]
    dataset = rdflib.Dataset()
    dataset.parse(data=FILES["a.trig"][0], format="trig")
    assert list(read_quads(dataset)) == [NAMED]


def test_the_hash_of_a_graph_does_not_hang_on_order() -> None:
    lines = [f"<http://e.org/{n}> <http://e.org/p> <http://e.org/o> ." for n in range(50)]
    one, two, less = rdflib.Graph(), rdflib.Graph(), rdflib.Graph()
    one.parse(data="\n".join(lines), format="nt")
    two.parse(data="\n".join(reversed(lines)), format="nt")
    less.parse(data="\n".join(lines[1:]), format="nt")
    assert graph_hash(one) == graph_hash(two) != graph_hash(less)


def test_files_of_one_name_are_both_hashed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    for path in (tmp_path / "a.ttl", tmp_path / "d" / "a.ttl"):
        path.write_text(FILES["a.ttl"][0])
    assert list(source_hashes([tmp_path / "a.ttl", tmp_path / "d" / "a.ttl"])) == ["a.ttl", "a.ttl (2)"]
