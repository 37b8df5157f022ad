"""The certificate: the same measurements on every stage's own artifact, from the trained model to the served one.

Robust accuracy is measured at the word embeddings. The trained model is attacked with its own gradients; an ONNX graph
gives none, so the perturbed embeddings found on the trained model are run through the graph itself. The attack sees
logits before temperature.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundwire import conformal, metrics
from groundwire.bundle import CERTIFICATE_FORMAT_VERSION
from groundwire.export.artifact import Artifact, artifact_hash, collect
from groundwire.export.attacks import Threat, pgd
from groundwire.export.calibrate import ensemble_probabilities, fit_temperature
from groundwire.export.machine import hardware
from groundwire.export.model import TextTask
from groundwire.export.progress import track
from groundwire.export.rows import Row, TextBatch, ordered_batches
from groundwire.export.settings import CertifySettings, PolicySettings
from groundwire.export.uncertainty_graph import FeatureStatistics
from groundwire.v1 import bundle_pb2, prediction_pb2

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
METHODS = {"lac": conformal.LAC, "aps": conformal.APS, "raps": conformal.RAPS}


@dataclass(frozen=True, slots=True)
class AttackedBatch:
    """A batch with the word embeddings that an attack found for it, [B, T, H]."""

    batch: TextBatch
    point: Tensor


@dataclass(frozen=True, slots=True)
class StageData:
    """What all stages are measured on. `attacked` holds one list of batches for each threat."""

    calibration: Sequence[Row]
    test: Sequence[Row]
    shuffled: Sequence[Row]
    attacked: Sequence[tuple[Threat, Sequence[AttackedBatch]]]
    pad_id: int


@dataclass(slots=True)
class StageFigures:
    """A stage's message, and the numbers behind it that the page plots."""

    stage: bundle_pb2.Stage
    temperature: float
    probabilities: Floats  # [N, C], test
    labels: Ints  # [N]
    calibration_logits: Floats = field(repr=False)  # [M, K, C]
    calibration_features: Floats = field(repr=False)  # [M, H]


def attack_rows(
    task: TextTask,
    rows: Sequence[Row],
    threat: Threat,
    pad_id: int,
    *,
    title: str,
    labels: Ints | None = None,
    seed: int = 0,
) -> list[AttackedBatch]:
    """Run PGD on rows, against their true labels or those given (by position in `rows`)."""
    torch.manual_seed(seed)
    position = {row.index: n for n, row in enumerate(rows)}
    out = []
    batches = list(ordered_batches(rows, 32, pad_id))
    # The attack needs gradients of the point only; those of the parameters would cost half as much again.
    trainable = [p for p in task.model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        for batch in track(batches, title):
            target = batch.labels
            if labels is not None:
                target = torch.tensor([int(labels[position[i]]) for i in batch.index.tolist()])

            def logits(point: Tensor, batch: TextBatch = batch) -> Tensor:
                return task.logits(point, batch)

            out.append(AttackedBatch(batch, pgd(logits, task.point(batch), target, threat, mask=task.mask(batch))))
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
    return out


def attacked_labels(
    artifact: Artifact, attacked: Sequence[AttackedBatch], rows: Sequence[Row], temperature: float
) -> Ints:
    """Labels that an artifact gives the attacked rows at its temperature, by position in `rows`. [N]

    With several heads the temperature matters: the mean of their probabilities decides, not that of their logits.
    """
    position = {row.index: n for n, row in enumerate(rows)}
    out = np.empty(len(rows), dtype=np.int64)
    for item in attacked:
        predicted = ensemble_probabilities(artifact.run_point(item.point, item.batch), temperature).argmax(axis=-1)
        for index, label in zip(item.batch.index.tolist(), predicted, strict=True):
            out[position[index]] = label
    return out


def measure_stage(
    artifact: Artifact,
    data: StageData,
    settings: CertifySettings,
    policy: PolicySettings,
    statistics_of: FeatureStatistics,
    own_gradients: bool,
) -> StageFigures:
    """Measure one artifact. Its temperature and conformal quantiles are fitted on its own calibration outputs."""
    name = artifact.name
    calibration_logits, calibration_features = collect(artifact, data.calibration, data.pad_id, f"{name}: calibration")
    test_logits, test_features = collect(artifact, data.test, data.pad_id, f"{name}: test")
    _, shuffled_features = collect(artifact, data.shuffled, data.pad_id, f"{name}: shuffled")
    calibration_labels = np.array([row.label for row in data.calibration])
    labels = np.array([row.label for row in data.test])
    temperature = fit_temperature(calibration_logits, calibration_labels)
    calibration_probabilities = ensemble_probabilities(calibration_logits, temperature)
    probabilities = ensemble_probabilities(test_logits, temperature)

    stage = bundle_pb2.Stage(name=name, artifact=artifact_hash(artifact), size_bytes=artifact.path.stat().st_size)
    stage.clean_accuracy.CopyFrom(proportion(probabilities.argmax(axis=1) == labels))
    stage.ece = metrics.ece(probabilities, labels)
    stage.brier = metrics.brier(probabilities, labels)
    stage.nll = metrics.nll(probabilities, labels)
    stage.aurc = metrics.aurc(probabilities, labels)
    quantiles = conformal.fit(calibration_probabilities, calibration_labels, METHODS[policy.method])
    for target in settings.coverages:
        sets = conformal.prediction_sets(probabilities, quantiles, target)
        hit = sets[np.arange(len(labels)), labels]
        stage.conformal.add(target=target, coverage=proportion(hit), set_size=float(sets.sum(axis=1).mean()))
    stage.ood_auroc = metrics.auroc(
        relative_distance(test_features, statistics_of), relative_distance(shuffled_features, statistics_of)
    )
    for threat, attacked in data.attacked:
        chosen = {index for item in attacked for index in item.batch.index.tolist()}
        places = [place for place, row in enumerate(data.test) if row.index in chosen]
        rows = [data.test[place] for place in places]
        # An attacker may as well leave a row as it is.
        right = attacked_labels(artifact, attacked, rows, temperature) == np.array([row.label for row in rows])
        right &= (probabilities.argmax(axis=1) == labels)[places]
        stage.robust_accuracy.add(
            attack="pgd", norm=threat.norm, epsilon=threat.epsilon, steps=threat.steps,
            gradients="own" if own_gradients else "trained", accuracy=proportion(right),
        )  # fmt: skip
    stage.latency.CopyFrom(measure_latency(artifact, data.test, data.pad_id))
    return StageFigures(stage, temperature, probabilities, labels, calibration_logits, calibration_features)


def relative_distance(features: Floats, fitted: FeatureStatistics) -> Floats:
    """Relative Mahalanobis distance, [N, H] -> [N]; what the graph computes (see `uncertainty_graph`)."""
    mapped, background = features @ fitted.whiten_label, features @ fitted.whiten_all
    near = np.square(mapped[:, None, :] - fitted.centres[None]).sum(axis=-1).min(axis=1)
    distance: Floats = near - np.square(background - fitted.centre).sum(axis=-1)
    return distance


def measure_latency(artifact: Artifact, rows: Sequence[Row], pad_id: int, runs: int = 60) -> bundle_pb2.Latency:
    """Time of one row of median length on one thread, after five runs to warm up."""
    row = sorted(rows, key=lambda r: len(r.ids))[len(rows) // 2]
    (batch,) = ordered_batches([row], 1, pad_id)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        single = type(artifact)(artifact.name, artifact.path, 1) if hasattr(artifact, "_threads") else artifact  # type: ignore[call-arg]
        times = []
        for n in range(runs + 5):
            started = time.perf_counter()
            single.run(batch)
            if n >= 5:
                times.append((time.perf_counter() - started) * 1e3)
    finally:
        torch.set_num_threads(threads)
    p99 = sorted(times)[min(len(times) - 1, int(0.99 * len(times)))]
    return bundle_pb2.Latency(p50_ms=statistics.median(times), p99_ms=p99, tokens=len(row.ids))


def proportion(hits: NDArray[np.bool_]) -> bundle_pb2.Proportion:
    """A share with its 95 % Wilson interval."""
    low, high = metrics.wilson(int(hits.sum()), len(hits))
    return bundle_pb2.Proportion(value=float(hits.mean()), low=low, high=high, examples=len(hits))


def certificate(stages: Sequence[bundle_pb2.Stage]) -> bundle_pb2.Certificate:
    """A certificate of this machine and this moment."""
    return bundle_pb2.Certificate(
        format_version=CERTIFICATE_FORMAT_VERSION, hardware=hardware(),
        created=datetime.now(UTC).isoformat(timespec="seconds"), stages=stages,
    )  # fmt: skip


def method_of(policy: PolicySettings) -> prediction_pb2.ConformalMethod.ValueType:
    """The enum value of a policy's method."""
    return METHODS[policy.method]
