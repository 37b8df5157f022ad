"""The demo's graph as the claims see it: labels, classes, facts, what was withheld, and names in sentences."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyoxigraph as ox

FOLDER = Path(__file__).resolve().parent
GRAPH = FOLDER / "world.trig"
WITHHELD = FOLDER / "withheld.ttl"
BASE = "https://groundwire.example/world/"
RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
ALIAS = "http://www.w3.org/2004/02/skos/core#altLabel"

Split = Literal["train", "calibration", "test"]
Fact = tuple[str, str]  # subject IRI, name of the predicate below `term/`

# Classes whose entities are kept apart: none that a test claim names was named in training. The others (continents,
# currencies, languages, organisations) are a vocabulary that all claims share.
SPLIT_CLASSES = frozenset({"Country", "City", "Landmark", "Mountain", "River"})
# Countries of the demo's questions, whose entities training must not see.
HELD_OUT = frozenset({"AU", "BR", "CU", "KE"})
_ENDS_WITH_ARTICLE = """
    Islands Republic Congo Netherlands Philippines Bahamas Maldives Gambia Comoros Seychelles Emirates Kingdom States
    UAE UK USA DPRK Union EU League G7 Council Confederation Sea Ocean Channel Tower Bridge Museum Fountain Gate House
    Monument Building Needle Arch Pagoda Colosseum Louvre Parthenon Alhambra Atomium Rijksmuseum Uffizi Registan
    Charminar Towers Fort Army Bell Memorial Redeemer Sphinx Temple
"""
_STARTS_WITH_ARTICLE = (
    "Kingdom of", "Republic of", "Federal", "Democratic", "Islamic", "Commonwealth of", "Principality of", "State of",
    "People's", "Gulf of", "Sea of", "Bay of", "Great Pyramid", "Palace of", "Leaning", "Grand Duchy", "Union of",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class World:
    """Facts by subject and predicate; objects are IRIs, or the lexical forms of literals. `aliases` are other names."""

    labels: Mapping[str, str]
    aliases: Mapping[str, list[str]]
    classes: Mapping[str, str]
    facts: Mapping[Fact, list[str]]
    withheld: Mapping[Fact, list[str]]

    def subjects(self, cls: str) -> list[str]:
        """The entities of a class, in order of their IRIs."""
        return sorted(iri for iri, found in self.classes.items() if found == cls)

    def truth(self, subject: str, predicate: str) -> list[str]:
        """The objects that are true in the world, whether the graph states them or not."""
        return self.facts.get((subject, predicate), []) + self.withheld.get((subject, predicate), [])

    def split(self, entity: str) -> Split | None:
        """The split of an entity, None for one that all share. Cities and landmarks go with their country."""
        if self.classes.get(entity) not in SPLIT_CLASSES:
            return None
        home = self._country(entity)
        if home.removeprefix(f"{BASE}country/") in HELD_OUT:
            return "test"
        share = int.from_bytes(hashlib.sha256(home.encode()).digest()[:4]) % 100
        return "train" if share < 66 else "calibration" if share < 83 else "test"

    def _country(self, entity: str) -> str:
        """The country that decides the split: of a landmark's city, of a city; else the entity itself."""
        for predicate in ("city", "country"):
            entity = next(iter(self.truth(entity, predicate)), entity)
        return entity

    def name(self, term: str, alias: int | None = None) -> str:
        """A term as it stands in a sentence: its label, or an alias by number, after "the" where it takes one."""
        label = self.labels.get(term, term)
        if alias is not None and self.aliases.get(term):
            label = self.aliases[term][alias % len(self.aliases[term])]
        takes = self.classes.get(term) in {"River", "Currency"} and not label.startswith(("River ", "Río "))
        takes = takes or label.split()[-1] in _ENDS_WITH_ARTICLE.split() or label.startswith(_STARTS_WITH_ARTICLE)
        return f"the {label}" if takes and not label.lower().startswith("the ") else label


def read_world() -> World:
    """Read the graph and what was withheld from it."""
    stated, kept = ox.parse(path=GRAPH), ox.parse(path=WITHHELD)
    labels: dict[str, str] = {}
    aliases: dict[str, list[str]] = defaultdict(list)
    classes: dict[str, str] = {}
    facts: dict[Fact, list[str]] = defaultdict(list)
    for subject, predicate, obj in _plain(stated):
        if predicate == RDFS_LABEL:
            labels[subject] = obj
        elif predicate == ALIAS:
            aliases[subject].append(obj)
        elif predicate == RDF_TYPE:
            classes[subject] = obj.rpartition("/")[2]
        elif predicate.startswith(f"{BASE}term/"):
            facts[subject, predicate.rpartition("/")[2]].append(obj)
    withheld: dict[Fact, list[str]] = defaultdict(list)
    for subject, predicate, obj in _plain(kept):
        withheld[subject, predicate.rpartition("/")[2]].append(obj)
    return World(labels, dict(aliases), classes, dict(facts), dict(withheld))


def _plain(quads: Iterable[ox.Quad]) -> Iterable[tuple[str, str, str]]:
    """Subject, predicate and object as strings; the graph holds no blank nodes."""
    for quad in quads:
        assert isinstance(quad.subject, ox.NamedNode)
        assert isinstance(quad.object, ox.NamedNode | ox.Literal)
        yield quad.subject.value, quad.predicate.value, quad.object.value
