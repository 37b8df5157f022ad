import hashlib
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import rdflib

from groundwire.kg import CompiledGraphError, CompiledRetriever, GraphSettings, SourceError, compile_graph, open_graph
from groundwire.kg.format import FORMAT_VERSION, sample_hash


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_input_gives_the_same_bytes(cities_file: Path, cities_folder: Path, tmp_path: Path) -> None:
    again = compile_graph([cities_file], tmp_path / "again")
    assert contents(again) == contents(cities_folder)


def test_settings_and_sources_make_the_version(cities_file: Path, cities_folder: Path, tmp_path: Path) -> None:
    version = CompiledRetriever(cities_folder).info.version
    other = compile_graph([cities_file], tmp_path / "other", GraphSettings(languages=("de", "en", "")))
    retriever = CompiledRetriever(other)
    assert retriever.info.version != version
    assert retriever.retrieve("", ["http://example.org/France"], 1)[0].subject.label == "Frankreich"


def test_counts(cities_folder: Path) -> None:
    info = CompiledRetriever(cities_folder).info
    assert (info.entities, info.named_graphs, info.format_version) == (8, 0, FORMAT_VERSION)
    assert info.labels == len({"paris", "city of light", "texas", "france", "frankreich", "sao paulo", "東 京", "tokyo",
                               "japan", "it"})  # fmt: skip
    assert list(info.source_hashes) == ["cities.ttl"]
    assert len(info.source_hashes["cities.ttl"]) == 64


@pytest.mark.parametrize("name", ["terms.bin", "triple_object.npy", "key_hash.npy", "meta.json"])
def test_a_cut_file_is_refused(cities_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(cities_folder, tmp_path / "cut")
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) - 5])
    with pytest.raises(CompiledGraphError, match=name):
        CompiledRetriever(folder)
    (folder / name).unlink()
    with pytest.raises(CompiledGraphError, match=name):
        CompiledRetriever(folder)


def test_every_changed_byte_is_noticed(cities_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cities_folder, tmp_path / "changed")
    for path in sorted(folder.iterdir()):
        whole = bytearray(path.read_bytes())
        if path.name == "meta.json" or not whole:
            continue
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        with pytest.raises(CompiledGraphError, match=f"{path.name}.*compile the graph again"):
            CompiledRetriever(folder)
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    CompiledRetriever(folder)


def tampered(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and make `meta.json` say that it was always so."""
    path = folder / name
    path.write_bytes(content)
    meta = json.loads((folder / "meta.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    meta["files"][name] = {"size": len(content), "sha256": digest, "sample_sha256": sample_hash(path)}
    (folder / "meta.json").write_text(json.dumps(meta))


def test_an_array_of_another_type_or_shape_is_refused(cities_folder: Path, tmp_path: Path) -> None:
    names = sorted(path.name for path in cities_folder.glob("*.npy"))
    assert {"outgoing.npy", "terms_offset.npy", "term_digit.npy"} <= set(names)
    for name in names:
        whole = np.load(cities_folder / name)
        for number, wrong in enumerate(
            (whole.astype(np.float32), whole.astype(whole.dtype.newbyteorder(">")).astype(">u2"), whole[:, None])
        ):
            folder = shutil.copytree(cities_folder, tmp_path / f"{name}-{number}")
            content = io.BytesIO()
            np.save(content, wrong)
            tampered(folder, name, content.getvalue())
            with pytest.raises(CompiledGraphError, match=f"{name}: damaged"):
                CompiledRetriever(folder)


def test_values_that_lead_nowhere_are_refused_or_harmless(cities_folder: Path, tmp_path: Path) -> None:
    ended: Counter[str] = Counter()
    for path in sorted(cities_folder.glob("*.npy")):
        whole = np.load(path)
        for number, wrong in enumerate((whole[: len(whole) // 2], np.full_like(whole, np.iinfo(whole.dtype).max))):
            folder = shutil.copytree(cities_folder, tmp_path / f"{path.name}-{number}")
            content = io.BytesIO()
            np.save(content, wrong)
            tampered(folder, path.name, content.getvalue())
            try:
                retriever = CompiledRetriever(folder)
            except CompiledGraphError:
                ended["refused"] += 1
                continue
            try:
                found = retriever.ground("Paris is the capital of France, and Tokyo that of Japan.", 5)
            except (IndexError, ValueError):
                ended["error"] += 1
            else:
                ended["answered"] += 1
                assert len(found.evidence) <= 5
    assert {"error", "answered"} <= set(ended)


def test_an_empty_iri_is_refused(tmp_path: Path) -> None:
    made = rdflib.Graph()
    made.add((rdflib.URIRef("http://e/a"), rdflib.URIRef("http://e/p"), rdflib.URIRef("")))
    with pytest.raises(SourceError, match="empty IRI"):
        compile_graph(made, tmp_path / "out")


def test_another_format_version_is_refused(cities_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cities_folder, tmp_path / "future")
    meta = json.loads((folder / "meta.json").read_text())
    meta["format_version"] = 99
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(CompiledGraphError, match="format version 99"):
        CompiledRetriever(folder)


@pytest.mark.parametrize("meta", ["", "[]", "{}", '{"format_version": 1, "files": {"a": 1}}', '{"format_version": 1}'])
def test_a_broken_meta_file_is_refused(tmp_path: Path, meta: str) -> None:
    (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(CompiledGraphError, match=r"meta\.json"):
        CompiledRetriever(tmp_path)


def test_a_folder_that_is_no_compiled_graph_is_neither_opened_nor_replaced(cities_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep me")
    with pytest.raises(CompiledGraphError, match="no compiled graph"):
        open_graph(tmp_path / "mine")
    with pytest.raises(CompiledGraphError, match="no compiled graph"):
        compile_graph([cities_file], tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "keep me"


def test_a_failed_compile_leaves_the_old_folder_and_nothing_else(cities_file: Path, tmp_path: Path) -> None:
    out = compile_graph([cities_file], tmp_path / "graph")
    before = contents(out)
    broken = tmp_path / "broken.nt"
    broken.write_text("<http://e.org/s> <http://e.org/p> <http://e.org/o> .\nbroken\n")
    with pytest.raises(SourceError):
        compile_graph([cities_file, broken], out)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.nt", "graph"]


def test_an_open_graph_survives_its_replacement(cities_file: Path, tmp_path: Path) -> None:
    out = compile_graph([cities_file], tmp_path / "graph")
    old = CompiledRetriever(out)
    before = old.ground("Paris is the capital of France.", 8)
    empty = tmp_path / "empty.nt"
    empty.write_text("")
    compile_graph([empty], out)
    assert old.ground("Paris is the capital of France.", 8) == before
    assert CompiledRetriever(out).info.triples == 0


def test_an_empty_graph(tmp_path: Path) -> None:
    path = tmp_path / "empty.ttl"
    path.write_text("")
    compiled, live = CompiledRetriever(compile_graph([path], tmp_path / "out")), open_graph(path)
    for retriever in (compiled, live):
        grounding = retriever.ground("Paris is the capital of France.", 8)
        assert (grounding.mentions, grounding.evidence, grounding.coverage) == ((), (), 0.0)
        assert retriever.retrieve("x", ["http://example.org/none"], 8) == []
        assert (retriever.info.triples, retriever.info.entities) == (0, 0)


def test_a_graph_in_memory_is_compiled(tmp_path: Path) -> None:
    graph = rdflib.Graph()
    graph.parse(data='<http://e.org/a> <http://e.org/p> "x" ; <http://www.w3.org/2000/01/rdf-schema#label> "Alpha" .')
    retriever = CompiledRetriever(compile_graph(graph, tmp_path / "out"))
    assert [mention.entity for mention in retriever.link("On Alpha now")] == ["http://e.org/a"]
    assert list(retriever.info.source_hashes) == ["graph"]


def test_progress_is_told(cities_file: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    compile_graph([cities_file], tmp_path / "out", progress=lambda step, count: steps.append(step))
    assert list(dict.fromkeys(steps)) == ["read", "sort", "words", "labels"]
