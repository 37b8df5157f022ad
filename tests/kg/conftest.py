import os
from pathlib import Path

import pytest

from groundwire.kg import CompiledRetriever, Retriever, compile_graph, open_graph

CITIES = """
@prefix : <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .
@prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .

:City a owl:Class ; rdfs:label "city"@en .
:Country a owl:Class ; rdfs:label "country"@en .
:capitalOf rdfs:label "capital of"@en .
:population rdfs:label "population"@en .
:foundingYear a owl:DatatypeProperty .

:Paris a :City ; rdfs:label "Paris"@en ; skos:altLabel "City of Light" ; :capitalOf :France ;
    :population 2102650 ; skos:definition "The capital of France." .
:ParisTexas a :City ; rdfs:label "Paris"@en ; :locatedIn :Texas ; :population 24171 .
:Texas a :State ; rdfs:label "Texas"@en .
:France a :Country ; rdfs:label "France"@en , "Frankreich"@de ; :currency "euro" .
:SaoPaulo a :City ; rdfs:label "São Paulo"@pt ; :population 12330000 ; :foundingYear "1554"^^xsd:gYear .
:Tokyo a :City ; rdfs:label "東京"@ja , "Tokyo"@en ; :capitalOf :Japan .
:Japan a :Country ; rdfs:label "Japan"@en .
:It a :Film ; rdfs:label "It" ; :director "Andy Muschietti" .
:Nameless :near :Paris ; :note [ rdfs:label "a note" ; :says "hello" ] .
"""


@pytest.fixture(scope="session")
def cities_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cities") / "cities.ttl"
    path.write_text(CITIES, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def cities_folder(cities_file: Path) -> Path:
    return compile_graph([cities_file], cities_file.parent / "compiled")


@pytest.fixture(params=["compiled", "rdflib"], scope="session")
def cities(request: pytest.FixtureRequest, cities_file: Path, cities_folder: Path) -> Retriever:
    return CompiledRetriever(cities_folder) if request.param == "compiled" else open_graph(cities_file)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of the real data sets: not part of the repository."""
    beside = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("GROUNDWIRE_DATA", beside))
    if not (path / "infotabs" / "graph.nq.gz").is_file():
        pytest.skip("no data sets: set GROUNDWIRE_DATA to their folder")
    return path
