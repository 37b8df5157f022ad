"""`groundwire kg compile`: what its options build, and what they tell."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from groundwire.cli.kg import kg
from groundwire.kg import SourceError

E = "http://e.org/"
TOWNS = """
@prefix : <http://e.org/> . @prefix owl: <http://www.w3.org/2002/07/owl#> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
:one { :a rdfs:label "Vienna"@en ; :mayor "Ann" ; owl:sameAs :b ; :in :x . }
:two { :b :mayor "Bob" ; :river "Danube" . :Capital rdfs:subClassOf :Town . :b a :Capital . }
"""


@pytest.fixture
def source(tmp_path: Path) -> str:
    path = tmp_path / "towns.trig"
    path.write_text(TOWNS)
    return str(path)


def test_fusion_conflicts_and_inference(source: str, tmp_path: Path) -> None:
    out, conflicts = tmp_path / "out", tmp_path / "conflicts.json"
    arguments = ["compile", source, "--out", str(out), "--functional", E + "mayor", "--conflicts", str(conflicts)]
    result = CliRunner().invoke(kg, [*arguments, "--reason", "rdfs"], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == ""
    for line in ("1 entities fused", "1 triples inferred", "1 conflicts of functional predicates"):
        assert line in result.stderr
    document = json.loads(conflicts.read_text())
    assert document["count"] == 1
    (conflict,) = document["conflicts"]
    assert (conflict["subject"], conflict["same_as"], conflict["predicate"]) == (E + "a", [E + "b"], E + "mayor")
    assert [(value["value"], value["graphs"]) for value in conflict["values"]] == [
        ("Ann", [E + "one"]),
        ("Bob", [E + "two"]),
    ]
    result = CliRunner().invoke(kg, ["ground", "--graph", str(out), "--json", "Who is the mayor of Vienna?"])
    found = json.loads(result.stdout)
    assert found["mentions"][0]["candidates"][0]["same_as"] == [E + "b"]
    marked = {fact["object"]: fact.get("conflicting", False) for fact in found["evidence"]}
    assert marked["Ann"] and marked["Bob"] and not marked["Danube"]


def test_no_fuse(source: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(kg, ["compile", source, "--out", str(out), "--no-fuse"], catch_exceptions=False)
    assert "fused" not in result.stderr
    found = json.loads(CliRunner().invoke(kg, ["ground", "--graph", str(out), "--json", "Vienna"]).stdout)
    assert {fact["object"] for fact in found["evidence"]} == {"Ann", E + "x"}


def test_warnings_are_one_line_each(tmp_path: Path) -> None:
    path = tmp_path / "hub.nt"
    same = "http://www.w3.org/2002/07/owl#sameAs"
    path.write_text("".join(f"<{E}{n}> <{same}> <{E}hub> .\n" for n in range(70)))
    result = CliRunner().invoke(kg, ["compile", str(path), "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert result.exit_code == 0
    assert f"Warning: 71 terms around {E}0 are said to be the same" in result.stderr


def test_an_endpoint_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"ftp://e\.org"):
        CliRunner().invoke(kg, ["compile", "ftp://e.org", "--out", str(tmp_path / "o")], catch_exceptions=False)
