"""The robustness report: its figures against direct counts, the JSON, and the page."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from groundwire.bundle import Bundle
from groundwire.export.attacks import Threat
from groundwire.export.attacks.text import TextResult
from groundwire.export.recipe import build_bundle
from groundwire.export.robustness import Report, Share, attack_point, text_figures, write_report
from groundwire.export.settings import Recipe


@pytest.fixture(scope="module", params=["linf", "l2"])
def report(request) -> Report:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x = torch.randn(80, 6)
    y = model(x).argmax(dim=1)
    y[:8] = (y[:8] + 1) % 3
    threat = Threat(0.3, request.param, steps=8)
    state = torch.get_rng_state()
    made = attack_point("linear", model, x, y, threat, epsilons=(0.1, 0.6), queries=60, sigma=0.25)
    assert torch.equal(state, torch.get_rng_state())
    return made


def test_the_worst_case_is_below_every_attack_and_the_curves_fall(report):
    assert report.clean == Share.of((torch.arange(80) >= 8).numpy())
    assert report.worst_case.value <= min(share.value for share in report.attacks.values())
    assert max(share.value for share in report.attacks.values()) < report.clean.value
    assert {"FGSM", "PGD-8", "APGD-CE-8", "APGD-DLR-8"} < set(report.attacks)
    assert ("Carlini-Wagner" in report.attacks) == report.threat.startswith("l2")
    assert report.changed.value >= report.clean.value - report.worst_case.value - 1e-9
    assert report.changed_confident.value <= report.changed.value
    assert len(report.curves) == 2
    for curve in report.curves.values():
        values = [value for _, value in curve]
        assert values == sorted(values, reverse=True)
    assert report.believable, [check for check in report.checks if not check.passed]


def result(clean: int, attacked: int, confidence: float, edits: int, queries: int) -> TextResult:
    return TextResult("t", "t", 1, clean, attacked, confidence, edits, queries)


TEXTS = {
    "characters": [result(1, 0, 0.95, 2, 30), result(1, 1, 0.9, 2, 200), result(0, 0, 0.6, 0, 1)],
    "words": [result(1, 0, 0.6, 1, 50), result(1, 1, 0.9, 1, 90), result(0, 0, 0.6, 0, 1)],
}


def test_text_figures_are_counts_over_the_worst_attack():
    report = text_figures("served", "characters and words", TEXTS)
    assert report.clean.value == report.attacks["words"].value + 1 / 3 == pytest.approx(2 / 3)
    assert report.worst_case.value == report.changed.value == report.changed_confident.value == pytest.approx(1 / 3)
    assert report.curves["edits"][0] == (0.0, pytest.approx(2 / 3))
    assert report.curves["edits"][-1] == (1.0, pytest.approx(1 / 3))
    assert report.curves["queries"][-1] == (30.0, pytest.approx(1 / 3))
    with pytest.raises(ValueError, match="same texts"):
        text_figures("x", "y", {})


def test_the_report_is_written_as_json_and_as_a_page_without_a_network(report, tmp_path):
    served = text_figures("served <b>", "15 % edits", TEXTS)
    page = write_report([report, served], tmp_path / "out", "towns", {"seed": 0, "hardware": "a & b"})
    text = page.read_text(encoding="utf-8")
    assert text.count("<svg") == 4
    assert "served &lt;b&gt;" in text and "a &amp; b" in text
    assert "8 of 8 pass" in text
    assert "http" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    content = json.loads((tmp_path / "out" / "robustness.json").read_text(encoding="utf-8"))
    first, second = content["reports"]
    assert first["worst_case"]["value"] == report.worst_case.value
    assert len(first["checks"]) == 8 and first["believable"] is True
    assert second["believable"] is None
    assert content["provenance"]["seed"] == 0


def test_a_build_reports_on_every_stage_when_asked(built: Bundle, project: Path, recipe: Recipe, tmp_path: Path):
    shutil.copytree(project / "bundle.work", tmp_path / "reported.work")
    asked = dataclasses.replace(recipe, certify=dataclasses.replace(recipe.certify, report=6), text="with a report")
    bundle = build_bundle(asked, tmp_path / "reported")
    assert {"robustness.json", "robustness.html"} <= set(bundle.manifest.files)
    report = json.loads((bundle.path / "robustness.json").read_text())
    stages = ("trained", "onnx-float32", "onnx-int8")
    names = [one["name"] for one in report["reports"]]
    assert names == ["trained: embeddings", *(f"{s}: {what}" for s in stages for what in ("text", "evidence"))]
    white_box, *black_box = report["reports"]
    assert len(white_box["checks"]) >= 5
    assert all(one["believable"] is None and one["clean"]["examples"] == 6 for one in black_box)
    for one in report["reports"]:
        assert one["worst_case"]["value"] <= min(share["value"] for share in one["attacks"].values())
    # FP32 after conversion is the trained model: the same attack finds the same.
    assert black_box[0]["attacks"] == black_box[2]["attacks"]
