"""The robustness report: what stands under an ensemble of attacks, and whether that is to be believed.

`attack_point` attacks any differentiable classifier, `text_figures` sums up black-box attacks; `write_report` makes one
JSON file and one HTML page of both. N examples, C labels.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from groundwire import metrics
from groundwire.export.attacks import Logits, Threat, apgd, carlini_wagner, fgsm, pgd, robust_at
from groundwire.export.attacks.search import random_search
from groundwire.export.attacks.text.evidence import EvidenceResult
from groundwire.export.attacks.text.greedy import TextResult
from groundwire.export.masking import Check, masking_checks
from groundwire.export.smoothing import certify_smoothed

Bools = NDArray[np.bool_]
CONFIDENT = 0.9


@dataclass(frozen=True, slots=True)
class Share:
    """A share of N examples with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    examples: int

    @classmethod
    def of(cls, hits: Bools | np.bool_) -> "Share":
        """The share of True."""
        hits = np.atleast_1d(hits)
        low, high = metrics.wilson(int(hits.sum()), len(hits))
        return cls(float(hits.mean()) if len(hits) else 0.0, low, high, len(hits))


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of one model.

    `threat` says in words what the attacker may do. `attacks` holds the accuracy under each attack, `worst_case` the
    share of examples that stand under all of them. `changed` is the share of predictions that some attack changes,
    `changed_confident` of those that it changes to a label of probability 0.9 or more. `curves` are named lists of (x,
    accuracy). `checks` are empty for black-box reports.
    """

    name: str
    threat: str
    clean: Share
    attacks: Mapping[str, Share]
    worst_case: Share
    changed: Share
    changed_confident: Share
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    checks: Sequence[Check] = ()

    @property
    def believable(self) -> bool:
        """Whether all masking checks passed."""
        return all(check.passed for check in self.checks)


def attack_point(
    name: str,
    logits: Logits,
    point: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    mask: Tensor | None = None,
    epsilons: Sequence[float] = (),
    surrogate: Logits | None = None,
    queries: int = 200,
    sigma: float = 0.0,
    seed: int = 0,
) -> Report:
    """Attack a classifier with FGSM, PGD, APGD on both losses, random search, and in L2 Carlini & Wagner.

    Args:
        name: of the model.
        logits: before any temperature, in evaluation mode, differentiable.
        point: [N, ...].
        labels: [N] true labels.
        threat: radius, norm, steps and restarts of every attack.
        mask: broadcastable to `point`; 0 where nothing may change.
        epsilons: further radii for the curve of accuracy against ε, under PGD.
        surrogate: another model of the same task for the masking checks.
        queries: of the random search.
        sigma: deviation of the noise of randomised smoothing; 0 leaves it out.
        seed: of all random numbers; the global generator is left as it was.
    """
    # A step of Adam moves every coordinate by the learning rate: a quarter of what each has in a vector of length ε.
    rate = min(0.01, 0.25 * threat.epsilon / point[0].numel() ** 0.5)
    cw: Callable[[], Tensor] = lambda: carlini_wagner(  # noqa: E731
        logits, point, labels, steps=10 * threat.steps, learning_rate=rate, bounds=threat.bounds, mask=mask
    )
    with torch.no_grad():
        classes = logits(point[:1]).shape[1]
    runs: dict[str, Callable[[], Tensor]] = {
        "FGSM": lambda: fgsm(logits, point, labels, threat.epsilon, norm=threat.norm, bounds=threat.bounds, mask=mask),
        f"PGD-{threat.steps}": lambda: pgd(logits, point, labels, threat, mask=mask),
        f"APGD-CE-{threat.steps}": lambda: apgd(logits, point, labels, threat, mask=mask),
        f"random search, {queries} queries": lambda: random_search(logits, point, labels, threat, queries, mask=mask),
    }
    if classes > 2:
        runs[f"APGD-DLR-{threat.steps}"] = lambda: apgd(logits, point, labels, threat, loss="dlr", mask=mask)
    clean = _probabilities(logits, point)
    truth = labels.cpu().numpy()
    found: dict[str, NDArray[np.float64]] = {}
    with torch.random.fork_rng(devices=[]):
        for attack, run in runs.items():
            torch.manual_seed(seed)
            found[attack] = _probabilities(logits, run())
        if threat.norm == "l2":
            moved = cw()
            wrong = logits(moved).argmax(dim=1) != labels
            inside = ~robust_at(point, moved, wrong, threat.epsilon)
            kept = torch.where(inside.view(-1, *[1] * (point.dim() - 1)), moved, point)
            found["Carlini-Wagner"] = _probabilities(logits, kept)
        curve = [(0.0, float((clean.argmax(axis=1) == truth).mean()))]
        for epsilon in sorted({*epsilons, threat.epsilon}):
            torch.manual_seed(seed)
            out = _probabilities(logits, pgd(logits, point, labels, replace(threat, epsilon=epsilon), mask=mask))
            curve.append((epsilon, float((out.argmax(axis=1) == truth).mean())))
    curves: dict[str, Sequence[tuple[float, float]]] = {f"{threat.norm} radius ε, PGD-{threat.steps}": curve}
    if sigma > 0:
        certified = certify_smoothed(logits, point, sigma, mask=mask, seed=seed)
        radii = np.linspace(0.0, 3.2 * sigma, 17).tolist()
        curves[f"certified l2 radius, smoothed with σ = {sigma:g}"] = [
            (radius, certified.accuracy(labels, radius)) for radius in radii
        ]
    checks = masking_checks(
        logits, point, labels, threat, mask=mask, surrogate=surrogate, queries=queries, seed=seed
    )  # fmt: skip
    words = f"{threat.norm} ball of radius {threat.epsilon:g}, white-box, logits before temperature"
    return _report(name, words, clean, found, truth, curves, checks)


def text_figures(name: str, threat: str, attacks: Mapping[str, Sequence[TextResult]]) -> Report:
    """Sum up black-box attacks on the same texts, in the same order, by their names.

    Raises:
        ValueError: no attacks, or they are not of the same texts.
    """
    lists = list(attacks.values())
    if not lists or any([r.original for r in results] != [r.original for r in lists[0]] for results in lists):
        raise ValueError("text_figures needs one attack or more, all of the same texts in the same order")
    right = np.array([r.clean == r.label for r in lists[0]])
    stands = np.array([[r.robust for r in results] for results in lists])
    changed = np.array([[r.attacked != r.clean for r in results] for results in lists])
    confident = np.array([[r.attacked != r.clean and r.confidence >= CONFIDENT for r in results] for results in lists])
    curves: dict[str, Sequence[tuple[float, float]]] = {}
    for what in ("edits", "queries"):
        spent = [min((getattr(r, what) for r in each if not r.robust), default=None) for each in zip(*lists)]  # noqa: B905
        most = max((s for s in spent if s is not None), default=1)
        marks = range(most + 1) if most <= 20 else np.unique(np.linspace(0, most, 21).astype(int)).tolist()
        curves[what] = [(float(m), float(np.mean([s is None or s > m for s in spent]))) for m in marks]
    return Report(
        name, threat, Share.of(right), {n: Share.of(s) for n, s in zip(attacks, stands, strict=True)},
        Share.of(stands.all(axis=0)), Share.of(changed.any(axis=0)), Share.of(confident.any(axis=0)), curves,
    )  # fmt: skip


def evidence_figures(name: str, threat: str, attacks: Mapping[str, Sequence[EvidenceResult]]) -> Report:
    """Sum up attacks on the evidence of the same texts, in the same order, by their names.

    Raises:
        ValueError: no attacks, or not of as many texts each.
    """
    lists = list(attacks.values())
    if not lists or len({len(results) for results in lists}) > 1:
        raise ValueError("evidence_figures needs one attack or more, all of the same texts in the same order")
    stands = np.array([[r.robust for r in results] for results in lists])
    changed = np.array([[r.attacked != r.clean for r in results] for results in lists])
    confident = np.array([[r.attacked != r.clean and r.confidence >= CONFIDENT for r in results] for results in lists])
    return Report(
        name, threat, Share.of(np.array([r.clean == r.label for r in lists[0]])),
        {n: Share.of(s) for n, s in zip(attacks, stands, strict=True)},
        Share.of(stands.all(axis=0)), Share.of(changed.any(axis=0)), Share.of(confident.any(axis=0)),
    )  # fmt: skip


def write_report(reports: Sequence[Report], folder: Path, title: str, provenance: Mapping[str, Any]) -> Path:
    """Write `robustness.json` and `robustness.html` to a folder, which is made. Returns the page's path.

    `provenance` is written as it is: hardware, seeds, data, command.
    """
    from groundwire.export.robustness_page import robustness_page  # noqa: PLC0415 - matplotlib is slow to import

    folder.mkdir(parents=True, exist_ok=True)
    table = [asdict(report) | {"believable": report.believable if report.checks else None} for report in reports]
    content = {"title": title, "provenance": dict(provenance), "reports": table}
    (folder / "robustness.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page = folder / "robustness.html"
    page.write_text(robustness_page(reports, title, provenance), encoding="utf-8")
    return page


def _report(
    name: str,
    threat: str,
    clean: NDArray[np.float64],
    found: Mapping[str, NDArray[np.float64]],
    truth: NDArray[np.int64],
    curves: Mapping[str, Sequence[tuple[float, float]]],
    checks: Sequence[Check],
) -> Report:
    before = clean.argmax(axis=1)
    after = np.stack([p.argmax(axis=1) for p in found.values()])
    sure = np.stack([p.max(axis=1) >= CONFIDENT for p in found.values()])
    stands, changed = np.equal(after, truth), np.not_equal(after, before)
    return Report(
        name, threat, Share.of(np.equal(before, truth)), {n: Share.of(s) for n, s in zip(found, stands, strict=True)},
        Share.of(stands.all(axis=0)), Share.of(changed.any(axis=0)),
        Share.of((changed & sure).any(axis=0)), curves, checks,
    )  # fmt: skip


@torch.no_grad()
def _probabilities(logits: Logits, point: Tensor) -> NDArray[np.float64]:
    out: NDArray[np.float64] = logits(point).softmax(dim=1).cpu().numpy().astype(np.float64)
    return out
