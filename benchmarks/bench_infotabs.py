"""InfoTabS: build the bundle of infotabs.toml; report accuracy on dev with and without evidence, clean and under PGD.

    python benchmarks/bench_infotabs.py [--work DIR] [--attacked N] [--epsilon E]... [--reuse]

An existing bundle in the work folder is used when it came from the same inputs; with --reuse, also when the graph has
been compiled otherwise since. Writes results/infotabs.json.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from groundwire import metrics
from groundwire.bundle import Bundle, open_bundle
from groundwire.export.artifact import Artifact, OnnxArtifact, TorchArtifact, collect
from groundwire.export.attacks import Threat
from groundwire.export.certify import attack_rows, attacked_labels
from groundwire.export.data import Example, read_examples
from groundwire.export.machine import hardware
from groundwire.export.model import TextClassifier, TextTask, load_encoder
from groundwire.export.recipe import build_bundle
from groundwire.export.rows import Row, encode_examples
from groundwire.export.settings import Recipe, read_recipe
from groundwire.kg import Retriever, compile_graph, open_graph
from groundwire.kg.encode import PairEncoder

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Subject:
    """What is measured: the trained model, the same model as it is served, and the data."""

    recipe: Recipe
    bundle: Bundle
    trained: TorchArtifact
    served: OnnxArtifact
    retriever: Retriever
    encoder: PairEncoder
    dev: list[Example]
    unseen_title: NDArray[np.bool_]


def main() -> None:
    """Build, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/infotabs"))
    parser.add_argument("--attacked", type=int, default=300, help="dev examples under attack")
    parser.add_argument("--epsilon", type=float, action="append", help="radius of PGD; default: those of the recipe")
    parser.add_argument("--reuse", action="store_true", help="measure the bundle that is there, whatever it came from")
    arguments = parser.parse_args()
    recipe = read_recipe(HERE / "infotabs.toml")
    out = arguments.work / "bundle"
    bundle = open_bundle(out) if arguments.reuse else build_bundle(recipe, out, keep_work=True)
    work = arguments.work / "bundle.work"
    compile_graph([recipe.path(s) for s in recipe.graph.sources], arguments.work / "graph")
    with closing(open_graph(arguments.work / "graph")) as retriever:
        version = retriever.info.version
        subject = _subject(recipe, bundle, work, retriever)
        evidence = {
            mode: _measure(subject, mode, arguments.attacked, arguments.epsilon or recipe.certify.epsilons)
            for mode in ("none", "gold", "linked")
        }
    stages = [
        {
            "stage": s.name, "accuracy": s.clean_accuracy.value, "ece": s.ece, "nll": s.nll, "brier": s.brier,
            "aurc": s.aurc, "size_bytes": s.size_bytes,
            "latency_ms": {"p50": s.latency.p50_ms, "p99": s.latency.p99_ms},
            "robust": {f"{r.epsilon:g}": r.accuracy.value for r in s.robust_accuracy},
            "conformal": {f"{c.target:g}": {"coverage": c.coverage.value, "set_size": c.set_size} for c in s.conformal},
        }
        for s in bundle.certificate.stages
    ]  # fmt: skip
    report = {
        "command": " ".join(["python", *sys.argv]),
        "hardware": hardware(),
        "packages": dict(bundle.manifest.provenance.packages),
        "seed": recipe.seed,
        "graph_version": {"training": bundle.manifest.provenance.graph_version, "measured": version},
        "recipe": bundle.manifest.provenance.recipe,
        "training": json.loads((work / "history.json").read_text()),
        "examples": {"train": len(read_examples(recipe.path(recipe.data.train))), "dev": len(subject.dev),
                     "dev_with_unseen_title": int(subject.unseen_title.sum())},
        "reference": {"trial, plain fine-tuning, gold entity": 0.662, "claim only, TF-IDF": 0.604},
        "dev": evidence,
        "certificate_on_half_of_dev": stages,
    }  # fmt: skip
    results = HERE / "results" / "infotabs.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(evidence, indent=1))


def _subject(recipe: Recipe, bundle: Bundle, work: Path, retriever: Retriever) -> Subject:
    model = TextClassifier(load_encoder(recipe.encoder_name), len(bundle.manifest.labels), recipe.encoder.heads)
    model.load_state_dict(load_file(work / "trained.safetensors"))
    dev = read_examples(recipe.path(recipe.data.test))
    titles = {_title(retriever, e) for e in read_examples(recipe.path(recipe.data.train))}
    unseen = np.array([_title(retriever, e) not in titles for e in dev])
    return Subject(
        recipe, bundle, TorchArtifact("trained", model, work / "trained.safetensors"),
        OnnxArtifact("onnx-int8", work / "int8.onnx"), retriever,
        bundle.encoder(), dev, unseen,
    )  # fmt: skip


def _title(retriever: Retriever, example: Example) -> str:
    found = retriever.retrieve("", example.entities[:1], 1)
    return found[0].subject.label if found else ""


def _measure(subject: Subject, mode: str, attacked: int, epsilons: Sequence[float]) -> dict[str, Any]:
    """Accuracy of both artifacts with evidence from `mode`: none, the gold entity, or linked ones."""
    labels = list(subject.bundle.manifest.labels)
    rows = encode_examples(
        subject.dev, labels, subject.encoder, subject.retriever, top_k=subject.recipe.graph.top_k, entities=mode,
        title=f"evidence: {mode}",
    )  # type: ignore[arg-type]  # fmt: skip
    truth = np.array([row.label for row in rows])
    report: dict[str, Any] = {"mean_tokens": float(np.mean([len(row.ids) for row in rows]))}
    artifacts: list[Artifact] = [subject.trained, subject.served]
    for artifact in artifacts:
        logits, _ = collect(artifact, rows, subject.encoder.pad_id, f"{mode}: {artifact.name}")
        right = logits.mean(axis=1).argmax(axis=1) == truth
        report[artifact.name] = {
            "accuracy": _share(right), "accuracy_unseen_title": _share(right[subject.unseen_title]),
        }  # fmt: skip
    chosen = _spread(rows, attacked)
    for epsilon in epsilons:
        threat = Threat(epsilon, subject.recipe.certify.norm, subject.recipe.certify.steps)
        points = attack_rows(
            TextTask(subject.trained.model), chosen, threat, subject.encoder.pad_id, title=f"PGD {mode}"
        )
        for artifact in artifacts:
            found = attacked_labels(artifact, points, chosen, subject.bundle.manifest.calibration.temperature)
            right = found == np.array([row.label for row in chosen])
            report[artifact.name][f"pgd-{threat.steps} {threat.norm} {epsilon:g}"] = _share(right)
    return report


def _spread(rows: list[Row], n: int) -> list[Row]:
    """`n` rows, evenly over the data, so that they are of many entities."""
    positions = np.unique(np.linspace(0, len(rows) - 1, min(n, len(rows))).astype(int))
    return [rows[p] for p in positions]


def _share(right: NDArray[np.bool_]) -> dict[str, float]:
    low, high = metrics.wilson(int(right.sum()), len(right))
    return {"value": float(right.mean()), "low": low, "high": high, "n": len(right)}


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
