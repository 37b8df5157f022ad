"""SHACL: results that people and programs read, and shapes that can do no harm."""

import json
from pathlib import Path

import pytest
import rdflib
from click.testing import CliRunner

from groundwire.cli.kg import kg
from groundwire.kg import GraphWarning, ValidationError, check_shapes
from groundwire.kg.read import read_quads

E = "http://e.org/"
SH = "http://www.w3.org/ns/shacl#"
PREFIXES = "@prefix : <http://e.org/> . @prefix sh: <http://www.w3.org/ns/shacl#> . "
DATA = PREFIXES + ':g { :ada a :Person ; :name "Ada" ; :age "old" . :bob a :Person ; :knows :ada . :cyd :age 7 . }'
SHAPES = (
    PREFIXES
    + """@prefix xsd: <http://www.w3.org/2001/XMLSchema#> .
:PersonShape a sh:NodeShape ; sh:targetClass :Person ;
  sh:property [ sh:path :name ; sh:minCount 1 ; sh:message "A person has a name" ] ;
  sh:property [ sh:path :age ; sh:datatype xsd:integer ; sh:severity sh:Warning ] ;
  sh:property [ sh:path ( :knows [ sh:inversePath :knows ] [ sh:alternativePath ( :a [ sh:zeroOrMorePath :b ] ) ] ) ;
    sh:minCount 1 ; sh:severity sh:Info ; sh:message "deep" ] .
"""
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    data, shapes = tmp_path / "data.trig", tmp_path / "shapes.ttl"
    data.write_text(DATA)
    shapes.write_text(SHAPES)
    return data, shapes


def test_results_say_where_what_and_how_bad(files: tuple[Path, Path]) -> None:
    report = check_shapes(read_quads(files[0]), [files[1]])
    violation, warning, *infos = report.results
    assert (violation.severity, violation.focus_node, violation.path) == ("violation", E + "bob", E + "name")
    assert violation.message == "A person has a name"
    assert violation.component == SH + "MinCountConstraintComponent"
    assert (warning.severity, warning.focus_node, warning.value) == ("warning", E + "ada", '"old"')
    assert {info.path for info in infos} == {f"{E}knows/^{E}knows/({E}a|({E}b)*)"}
    assert report.violations == 1
    document = json.loads(json.dumps(report.to_json()))
    assert document["conforms"] is False
    assert document["results"][0]["focus_node"] == E + "bob"
    assert f"violation: {E}bob {E}name: A person has a name\n" in report.to_text()
    with pytest.raises(ValidationError, match=r"1 violations of the shapes: http://e\.org/bob"):
        report.raise_for_violations()


def test_the_same_again_and_the_shapes_are_as_they_were(files: tuple[Path, Path]) -> None:
    shapes = rdflib.Graph()
    shapes.parse(files[1])
    before = set(shapes)
    first = check_shapes(read_quads(files[0]), [shapes])
    assert check_shapes(read_quads(files[0]), [shapes]) == first
    assert set(shapes) == before
    assert rdflib.Literal("1", datatype=rdflib.XSD.boolean).toPython() is True


def test_a_graph_that_conforms(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "good.ttl").write_text(PREFIXES + ':cyd :name "Cyd" .')
    report = check_shapes(read_quads(tmp_path / "good.ttl"), [files[1]])
    assert report.results == ()
    assert report.to_json() == {"conforms": True, "violations": 0, "results": []}
    report.raise_for_violations()


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            ':S a sh:NodeShape ; sh:sparql [ sh:select "SELECT $this WHERE { SERVICE <http://x.org/> {} }" ] .',
            "SHACL Core",
        ),
        (':S a sh:NodeShape ; sh:targetNode :a ; sh:js [ sh:jsFunctionName "f" ] .', "SHACL Core"),
        (":a :b :c .", "no SHACL shape"),
        (":S a sh:NodeShape ; sh:targetNode :a ; sh:property [ sh:path 5 ] .", "can't be used"),
        (
            ':S a sh:NodeShape ; sh:targetClass :Person ; sh:property [ sh:path :name ; sh:pattern "(" ] .',
            r"sh:pattern '\(' is no regular expression \(.*\); correct it",
        ),
        (
            ":S a sh:NodeShape ; sh:targetClass :Person ; sh:and _:l . @prefix rdf: "
            "<http://www.w3.org/1999/02/22-rdf-syntax-ns#> . _:l rdf:first :D ; rdf:rest _:l .",
            r"the list .*shacl#and comes back to .*; end it in rdf:nil",
        ),
    ],
)
def test_shapes_that_cannot_be_used(files: tuple[Path, Path], tmp_path: Path, shapes: str, message: str) -> None:
    (tmp_path / "bad.ttl").write_text(PREFIXES + shapes)
    with pytest.raises(ValidationError, match=message):
        check_shapes(read_quads(files[0]), [tmp_path / "bad.ttl"])


def test_imports_are_not_fetched(files: tuple[Path, Path], tmp_path: Path) -> None:
    # A port that nothing listens on: fetching would fail.
    (tmp_path / "more.ttl").write_text("<> <http://www.w3.org/2002/07/owl#imports> <http://127.0.0.1:1/more.ttl> .")
    with pytest.warns(GraphWarning, match=r"127\.0\.0\.1:1/more\.ttl"):
        report = check_shapes(read_quads(files[0]), [files[1], tmp_path / "more.ttl"])
    assert report.violations == 1


def test_compile_checks_and_fails_on_request(files: tuple[Path, Path], tmp_path: Path) -> None:
    data, shapes = map(str, files)
    out, report = tmp_path / "out", tmp_path / "report.json"
    arguments = ["compile", data, "--out", str(out), "--shapes", shapes, "--shapes-report", str(report)]
    with pytest.raises(ValidationError, match="bob"):
        CliRunner().invoke(kg, [*arguments, "--fail-on-violation"], catch_exceptions=False)
    assert not out.exists()
    assert json.loads(report.read_text())["violations"] == 1
    result = CliRunner().invoke(kg, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "info: 1" in result.stderr
    assert "A person has a name" in result.stderr
    assert (out / "meta.json").is_file()
    assert CliRunner().invoke(kg, ["compile", data, "--out", str(out), "--fail-on-violation"]).exit_code == 2


def test_what_was_inferred_is_validated_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    schema = tmp_path / "schema.ttl"
    schema.write_text(PREFIXES + ":age <http://www.w3.org/2000/01/rdf-schema#domain> :Person .")
    report = tmp_path / "report.json"
    arguments = ["compile", str(files[0]), str(schema), "--out", str(tmp_path / "out"), "--shapes", str(files[1])]
    result = CliRunner().invoke(kg, [*arguments, "--shapes-report", str(report), "--reason", "rdfs"])
    assert result.exit_code == 0
    found = json.loads(report.read_text())["results"]
    assert [one["focus_node"] for one in found if one["severity"] == "violation"] == [E + "bob", E + "cyd"]
