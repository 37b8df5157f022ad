"""`groundwire build` and `groundwire evaluate`, as commands, on a real recipe and a real server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import groundwire

from groundwire.bundle import Bundle
from groundwire.server.app import BackgroundServer
from groundwire.server.config import ServerConfig

KEYS = ["n", "accuracy", "macro_f1", "nll", "brier", "ece", "aurc", "coverage", "set_size", "accepted",
        "accepted_accuracy", "latency_ms"]  # fmt: skip


def test_build_says_what_it_made_and_does_nothing_twice(built: Bundle, project: Path):
    result = groundwire("build", project / "recipe.toml", "--out", built.path)
    assert result.returncode == 0, result.stderr
    assert f"towns {built.manifest.version}" in result.stdout
    assert "under PGD-4" in result.stdout
    assert "up to date" in result.stderr


def test_evaluate_gives_the_same_figures_in_process_and_from_a_server(built: Bundle, project: Path):
    common = ("--data", project / "test.jsonl", "--entities", "gold", "--json")
    local = groundwire("evaluate", "--bundle", built.path, "--graph", project / "towns.ttl", *common)
    assert local.returncode == 0, local.stderr
    figures = json.loads(local.stdout)
    assert list(figures) == KEYS
    assert figures["n"] == 160
    assert figures["accuracy"] > 0.9
    assert figures["coverage"]["0.9"] > 0.8
    assert 0 < figures["accepted"] <= 1
    with BackgroundServer(ServerConfig((built.path,), project / "towns.ttl", "127.0.0.1:0")) as server:
        remote = groundwire("evaluate", "--target", server.address, *common)
    assert remote.returncode == 0, remote.stderr
    for name, value in json.loads(remote.stdout).items():
        if name != "latency_ms":
            assert value == pytest.approx(figures[name], abs=1e-4), name


def test_linked_and_several_coverages(built: Bundle, project: Path):
    result = groundwire("evaluate", "--bundle", built.path, "--graph", project / "towns.ttl", "--data",
                        project / "test.jsonl", "--coverage", "0.5", "--coverage", "0.95", "--json")  # fmt: skip
    figures = json.loads(result.stdout)
    assert set(figures["coverage"]) == {"0.5", "0.95"}
    assert figures["set_size"]["0.5"] <= figures["set_size"]["0.95"]
    assert figures["accuracy"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("evaluate", "--data", "x.jsonl"), 2, "give either"),
        (("evaluate", "--data", "nowhere.jsonl", "--target", "127.0.0.1:1"), 1, "can't be read"),
        (("build", "nowhere.toml", "--out", "o"), 1, "nowhere.toml"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_mistakes_are_explained_without_a_traceback(arguments, code, message):
    result = groundwire(*arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_labels_that_the_model_does_not_know_are_named(built: Bundle, project: Path, tmp_path: Path):
    (tmp_path / "d.jsonl").write_text('{"id": "1", "text": "Dokibaburg is red", "label": "maybe"}\n')
    result = groundwire("evaluate", "--bundle", built.path, "--graph", project / "towns.ttl", "--data",
                        tmp_path / "d.jsonl")  # fmt: skip
    assert result.returncode == 1
    assert "maybe" in result.stderr


def test_an_overview_imports_neither_torch_nor_the_server():
    code = "import sys; from groundwire.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([m for m in ('torch', 'transformers', 'grpc', 'onnxruntime') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"
    for name in ("kg", "build", "serve", "predict", "evaluate", "demo"):
        assert name in result.stdout


def test_attack_reports_what_flips_the_label_and_writes_the_texts(built: Bundle, project: Path, tmp_path: Path):
    result = groundwire("attack", "--bundle", built.path, "--graph", project / "towns.ttl", "--data",
                        project / "test.jsonl", "--entities", "gold", "--limit", "24", "--queries", "60",
                        "--edits", "0.4", "--out", tmp_path / "report", "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    of_text, of_evidence = json.loads(result.stdout)["reports"]
    assert set(of_text["attacks"]) == {"characters", "words"}
    assert set(of_evidence["attacks"]) == {"drop", "swap", "poison"}
    assert of_text["clean"]["examples"] == 24
    assert of_text["worst_case"]["value"] <= of_text["attacks"]["characters"]["value"] <= of_text["clean"]["value"]
    # The word that tells the label of these claims can be misspelt, and their evidence decides nothing.
    assert of_text["worst_case"]["value"] < of_text["clean"]["value"]
    assert of_evidence["worst_case"]["value"] == of_evidence["clean"]["value"]
    flipped = [json.loads(line) for line in (tmp_path / "report" / "texts.jsonl").read_text().splitlines()]
    assert flipped
    assert all(one["text"] != one["original"] and one["attacked"] != one["clean"] for one in flipped)
    stored = json.loads((tmp_path / "report" / "robustness.json").read_text())
    assert stored["reports"][0]["worst_case"] == of_text["worst_case"]
    assert "Stands under every attack" in (tmp_path / "report" / "robustness.html").read_text()


def test_attack_runs_against_a_server(built: Bundle, project: Path):
    with BackgroundServer(ServerConfig((built.path,), project / "towns.ttl", "127.0.0.1:0")) as server:
        common = ("attack", "--target", server.address, "--data", project / "test.jsonl", "--limit", "6")
        result = groundwire(*common, "--queries", "20", "--attack", "characters")
        refused = groundwire(*common, "--attack", "evidence")
    assert result.returncode == 0, result.stderr
    assert f"towns {built.manifest.version}" in result.stdout
    assert "under all of them" in result.stdout
    assert refused.returncode == 2
    assert "--bundle" in refused.stderr
