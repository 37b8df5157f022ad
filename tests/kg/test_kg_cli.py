import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from groundwire.cli.kg import kg
from groundwire.kg import CompiledGraphError, SourceError

MENTION_KEYS = ["start", "end", "text", "entity", "label", "score", "candidates"]
EVIDENCE_KEYS = ["subject", "predicate", "object", "graph", "text", "score"]


@pytest.fixture(params=["folder", "file"])
def graph(request: pytest.FixtureRequest, cities_file: Path, cities_folder: Path) -> str:
    return str(cities_folder if request.param == "folder" else cities_file)


def test_compile_writes_a_folder_that_link_reads(cities_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "graph"
    result = CliRunner().invoke(kg, ["compile", str(cities_file), "--out", str(out)])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "8 entities" in result.stderr
    assert "Tokyo" in CliRunner().invoke(kg, ["link", "--graph", str(out), "In Tokyo"]).stdout


def test_link_json_has_the_contract_keys(graph: str) -> None:
    result = CliRunner().invoke(kg, ["link", "--graph", graph, "--json", "😀 in São Paulo", "Nothing"])
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert list(first) == ["text", "mentions"]
    mention = first["mentions"][0]
    assert list(mention) == MENTION_KEYS
    assert (mention["start"], mention["end"], mention["entity"]) == (5, 14, "http://example.org/SaoPaulo")
    assert mention["candidates"] == [{"entity": mention["entity"], "score": mention["score"]}]
    assert second == {"text": "Nothing", "mentions": []}


def test_ground_json_reads_one_text_a_line(graph: str) -> None:
    result = CliRunner().invoke(
        kg, ["ground", "--graph", graph, "--json", "--top-k", "2"], input=b"Paris is in France.\r\n\nNothing\n"
    )
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert list(first) == ["text", "mentions", "evidence"]
    assert first["text"] == "Paris is in France."
    assert len(first["evidence"]) == 2
    assert list(first["evidence"][0]) == EVIDENCE_KEYS
    assert first["evidence"][0]["text"] == "Paris capital of: France"
    assert second["evidence"] == []


def test_ground_for_people(graph: str) -> None:
    result = CliRunner().invoke(kg, ["ground", "--graph", graph, "Is [bold]Tokyo[/bold] the capital of Japan?"])
    assert result.exit_code == 0
    assert "[bold]Tokyo" in result.stdout
    assert "capital of: Japan" in result.stdout
    assert "coverage" in result.stdout


def test_errors_reach_the_caller(tmp_path: Path) -> None:
    with pytest.raises(CompiledGraphError, match="no compiled graph"):
        CliRunner().invoke(kg, ["link", "--graph", str(tmp_path), "x"], catch_exceptions=False)
    (tmp_path / "a.ttl").write_text("broken")
    with pytest.raises(SourceError, match="line 1"):
        CliRunner().invoke(
            kg, ["compile", str(tmp_path / "a.ttl"), "--out", str(tmp_path / "o")], catch_exceptions=False
        )
