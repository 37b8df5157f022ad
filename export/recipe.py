"""From a recipe to a bundle, stage after stage:

    data and evidence -> adversarial training -> ONNX with parity check -> INT8 or FP16 -> calibration -> certificate
    -> bundle

In several processes the main one does all of it, and the others help it to train (`groundwire.export.train_stage`).
Work in progress lies beside the output in `OUT.work`. An interrupted build goes on where it was; one whose recipe, data
or graph changed starts anew.
"""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch

from groundwire import conformal
from groundwire.bundle import (
    CERTIFICATE,
    CERTIFICATE_PAGE,
    FORMAT_VERSION,
    INPUTS,
    MANIFEST,
    MODEL,
    TASK,
    TOKENIZER,
    WORDS,
    Bundle,
    check_replaceable,
    open_bundle,
    seal_bundle,
    to_json,
)  # fmt: skip
from groundwire.errors import BundleError
from groundwire.export import calibrate
from groundwire.export.artifact import Artifact, OnnxArtifact, TorchArtifact, artifact_hash, collect
from groundwire.export.attacks import Threat
from groundwire.export.certificate_page import certificate_page
from groundwire.export.certify import (
    StageData,
    StageFigures,
    attack_rows,
    attacked_labels,
    certificate,
    measure_stage,
    method_of,
    relative_distance,
)  # fmt: skip
from groundwire.export.data import file_hash
from groundwire.export.errors import StageError
from groundwire.export.model import TextClassifier, TextTask
from groundwire.export.onnx_graph import Batch, check_parity, export_core, halve_core, quantize_core
from groundwire.export.prepare import Prepared, open_recipe_graph, prepare, provenance_of
from groundwire.export.progress import console
from groundwire.export.rows import Row, ordered_batches, spread
from groundwire.export.settings import Recipe
from groundwire.export.stage_reports import report_stages
from groundwire.export.train_stage import dismiss_assistants, open_accelerator, open_work, train
from groundwire.export.uncertainty_graph import FeatureStatistics, add_uncertainty, fit_features
from groundwire.kg.staging import sole_build
from groundwire.v1 import bundle_pb2

_NORMALISATIONS = {
    "none": bundle_pb2.TEXT_NORMALISATION_UNSPECIFIED,
    "fold": bundle_pb2.TEXT_NORMALISATION_FOLD,
    "spell": bundle_pb2.TEXT_NORMALISATION_SPELL,
}
PROBE_ROWS = 32  # rows of the parity check
KNOTS = 1001  # quantiles of distances that a bundle keeps: the policy's lies in the upper tail
RANGE_ROWS = 512  # training rows that show the ranges of activations
FEATURE_ROWS = 1000  # training rows that the feature statistics are fitted on


def build_bundle(recipe: Recipe, out: Path, *, keep_work: bool = False) -> Bundle:
    """Build the bundle of a recipe in the folder `out`. Does nothing when it is there already, from the same inputs.

    Raises:
        ExportError: recipe, data or encoder are wrong, another build into `out` runs, or a stage lost more than its
            gate allows.
        GraphError: the graph can't be read.
    """
    out = out.absolute()
    check_replaceable(out)
    with sole_build(out, StageError):
        return _build(recipe, out, keep_work)


def _build(recipe: Recipe, out: Path, keep_work: bool) -> Bundle:
    accelerator = open_accelerator(recipe)
    torch.manual_seed(recipe.seed)
    with open_recipe_graph(recipe) as retriever:
        provenance = provenance_of(recipe, retriever)
        current = _current(out, provenance)
        if current is not None:
            dismiss_assistants(accelerator)
            console.print(f"{out} is up to date.")
            return current
        prepared = prepare(recipe, retriever)
    work = out.with_name(out.name + ".work")
    open_work(work, recipe, prepared)

    console.print(f"[bold]Training[/] on {len(prepared.train)} examples")
    model = train(recipe, prepared, work, accelerator)
    trained = TorchArtifact("trained", model, work / "trained.safetensors")

    console.print(f"[bold]ONNX[/] export, weights in {recipe.encoder.weights}")
    export_core(model, work / "float32.onnx")
    probe = _batches(prepared, prepared.calibration[:PROBE_ROWS])
    check_parity(model, work / "float32.onnx", probe, recipe.gates.onnx_difference)
    graphs = [OnnxArtifact("onnx-float32", work / "float32.onnx")]
    if recipe.encoder.weights != "float32":  # which is served as it was exported
        graphs.append(_with_smaller_weights(recipe, prepared, work))
    served = graphs[-1]

    console.print("[bold]Certificate[/]: the same measurements on every stage")
    figures, statistics, data = _certify(recipe, prepared, trained, graphs)
    _gate_weights(recipe, prepared, figures[1], figures[-1])
    manifest = _manifest(recipe, prepared, model, provenance)
    _calibrate(recipe, prepared, manifest, figures[-1], statistics, served, trained, data)

    staging = work / "bundle"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    onnx.save(add_uncertainty(onnx.load(str(served.path)), figures[-1].temperature, statistics), str(staging / MODEL))
    (staging / TOKENIZER).write_bytes(prepared.tokenizer)
    if prepared.words:
        (staging / WORDS).write_bytes(prepared.words)
    manifest.version = file_hash(staging / MODEL)[:12]
    document = certificate([f.stage for f in figures])
    (staging / CERTIFICATE).write_text(to_json(document), encoding="utf-8")
    (staging / CERTIFICATE_PAGE).write_text(certificate_page(manifest, document, figures), encoding="utf-8")
    if recipe.certify.report:
        report_stages(recipe, prepared, [trained, *graphs], [f.temperature for f in figures], staging)
    bundle = seal_bundle(staging, manifest, out)
    if not keep_work:
        shutil.rmtree(work)
    return bundle


def _with_smaller_weights(recipe: Recipe, prepared: Prepared, work: Path) -> OnnxArtifact:
    name = recipe.encoder.weights
    path = work / f"{name}.onnx"
    if name == "int8":
        quantize_core(work / "float32.onnx", path, _batches(prepared, _sample(recipe, prepared, RANGE_ROWS)))
    else:
        halve_core(work / "float32.onnx", path)
    return OnnxArtifact(f"onnx-{name}", path)


def _sample(recipe: Recipe, prepared: Prepared, most: int) -> list[Row]:
    return random.Random(recipe.seed).sample(prepared.train, min(len(prepared.train), most))


def _batches(prepared: Prepared, rows: Sequence[Row]) -> list[Batch]:
    return [(b.ids, b.mask, b.types) for b in ordered_batches(rows, 8, prepared.encoder.pad_id)]


def _gate_weights(recipe: Recipe, prepared: Prepared, float32: StageFigures, served: StageFigures) -> None:
    """Refuse weights that lost too much, judged on the calibration data so that the test data stay unseen."""
    labels = np.array([row.label for row in prepared.calibration])
    before, after = (
        np.mean(calibrate.ensemble_probabilities(f.calibration_logits, f.temperature).argmax(axis=1) == labels)
        for f in (float32, served)
    )
    most = recipe.gates.weights_accuracy_loss
    if before - after > most:
        raise StageError(
            f"weights in {recipe.encoder.weights} lost {before - after:.1%} accuracy on the calibration data "
            f"({before:.1%} to {after:.1%}), more than gates.weights_accuracy_loss of {most:.1%}."
        )


def _certify(
    recipe: Recipe, prepared: Prepared, trained: TorchArtifact, graphs: Sequence[OnnxArtifact]
) -> tuple[list[StageFigures], FeatureStatistics, StageData]:
    """Measure every stage. The feature statistics are those of the last stage, the one that is served."""
    settings, pad_id = recipe.certify, prepared.encoder.pad_id
    task = TextTask(trained.model)
    chosen = [prepared.test[place] for place in spread(len(prepared.test), settings.examples)]
    attacked = []
    for epsilon in settings.epsilons:
        threat = Threat(epsilon, settings.norm, settings.steps)
        title = f"PGD-{threat.steps}, ε = {epsilon:g}"
        attacked.append((threat, attack_rows(task, chosen, threat, pad_id, title=title, seed=recipe.seed)))
    data = StageData(prepared.calibration, prepared.test, prepared.shuffled, attacked, pad_id)
    # A sample of the training data is enough for two covariances, and costs no second pass over all of it.
    sample = _sample(recipe, prepared, FEATURE_ROWS)
    figures = []
    artifacts: list[Artifact] = [trained, *graphs]
    for artifact in artifacts:
        features = collect(artifact, sample, pad_id, f"{artifact.name}: features")[1]
        statistics = fit_features(features, np.array([row.label for row in sample]), len(prepared.labels))
        figures.append(measure_stage(artifact, data, settings, recipe.policy, statistics, artifact is trained))
    return figures, statistics, data


def _calibrate(
    recipe: Recipe,
    prepared: Prepared,
    manifest: bundle_pb2.BundleManifest,
    figures: StageFigures,
    statistics: FeatureStatistics,
    served: OnnxArtifact,
    trained: TorchArtifact,
    data: StageData,
) -> None:
    """Write what was fitted on the served model into the manifest."""
    labels = np.array([row.label for row in prepared.calibration])
    probabilities = calibrate.ensemble_probabilities(figures.calibration_logits, figures.temperature)
    manifest.calibration.temperature = figures.temperature
    manifest.calibration.examples = len(labels)
    manifest.calibration.fitted_on = artifact_hash(served)
    manifest.conformal.extend(
        conformal.fit(probabilities, labels, m) for m in (conformal.LAC, conformal.APS, conformal.RAPS)
    )
    distances = relative_distance(figures.calibration_features, statistics)
    manifest.out_of_distribution.distance_quantiles.extend(np.quantile(distances, np.linspace(0, 1, KNOTS)).tolist())
    threat = data.attacked[0][0]
    places = spread(len(prepared.calibration), recipe.certify.examples)
    rows = [prepared.calibration[place] for place in places]
    before = probabilities[places]
    attacked = attack_rows(TextTask(trained.model), rows, threat, data.pad_id, title="robust margin",
                           labels=before.argmax(axis=1), seed=recipe.seed)  # fmt: skip
    kept = attacked_labels(served, attacked, rows, figures.temperature) == before.argmax(axis=1)
    margin, share = calibrate.fit_robust_margin(calibrate.margins(before), kept, recipe.certify.robust_share)
    manifest.robust_margin.CopyFrom(bundle_pb2.RobustMargin(
        margin=margin, share=share, attack="pgd", norm=threat.norm, epsilon=threat.epsilon, steps=threat.steps,
    ))  # fmt: skip


def _manifest(
    recipe: Recipe,
    prepared: Prepared,
    model: TextClassifier,
    provenance: bundle_pb2.Provenance,
) -> bundle_pb2.BundleManifest:
    """The manifest without what `_calibrate` fits."""
    config = model.encoder.config
    manifest = bundle_pb2.BundleManifest(
        format_version=FORMAT_VERSION, name=recipe.name, version="0", task=TASK, labels=prepared.labels,
        provenance=provenance,
    )  # fmt: skip
    manifest.inputs.max_tokens = recipe.encoder.max_tokens
    manifest.inputs.top_k = recipe.graph.top_k if recipe.graph.sources else 0
    manifest.inputs.text_normalisation = _NORMALISATIONS[recipe.encoder.normalise]
    for name in INPUTS:
        manifest.inputs.tensors.add(name=name, dtype="int64", shape=["batch", "tokens"])
    manifest.policy.CopyFrom(bundle_pb2.DecisionPolicy(
        coverage=recipe.policy.coverage, method=method_of(recipe.policy),
        max_distance_quantile=recipe.policy.max_distance_quantile,
        require_grounding=recipe.policy.require_grounding and bool(recipe.graph.sources),
    ))  # fmt: skip
    manifest.encoder.CopyFrom(bundle_pb2.Encoder(
        name=Path(recipe.encoder.name).name, hidden_size=int(config.hidden_size), layers=int(config.num_hidden_layers),  # type: ignore[arg-type, union-attr]
        parameters=sum(p.numel() for p in model.parameters()), weights=recipe.encoder.weights,
    ))  # fmt: skip
    return manifest


def _current(out: Path, provenance: bundle_pb2.Provenance) -> Bundle | None:
    """The bundle at `out`, if it is whole and came from the same inputs."""
    if not (out / MANIFEST).exists():
        return None
    try:
        bundle = open_bundle(out)
    except BundleError:
        return None
    before = bundle_pb2.Provenance()
    before.CopyFrom(bundle.manifest.provenance)
    before.created = provenance.created
    return bundle if before == provenance else None
