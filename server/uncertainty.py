"""From the model's outputs and the manifest to probabilities, conformal set, uncertainty by cause, and decision."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundwire.conformal import label_scores, largest_score
from groundwire.kg.settings import INFERRED_GRAPH
from groundwire.kg.types import Evidence, Term
from groundwire.server.runtime import Outputs
from groundwire.v1 import bundle_pb2, prediction_pb2

Floats = NDArray[np.float64]

# Stands for "no margin was enough" when the bundle was certified without an attack; margins end at 1.
NO_ROBUST_MARGIN = 2.0


class Verdict(NamedTuple):
    """What the outputs of one row come to, C labels, as plain numbers: a request's share of the work is small then."""

    finite: bool  # whether the model gave numbers
    logits: list[float]  # C
    probabilities: list[float]  # C
    order: list[int]  # labels by falling probability
    scores: list[float]  # C, conformity: lower conforms better
    margin: float  # top probability minus the second
    heads: int
    agreement: float  # share of the heads that vote for the top label
    entropy: float
    mutual_information: float
    energy: float
    distance: float
    distance_quantile: float


class Judge:
    """Applies a bundle's calibration tables and policy. Stateless after construction, so any thread may use it."""

    def __init__(self, manifest: bundle_pb2.BundleManifest) -> None:
        self.manifest = manifest
        self.labels = list(manifest.labels)
        self._quantiles = next(q for q in manifest.conformal if q.method == manifest.policy.method)
        self._distances: Floats = np.asarray(manifest.out_of_distribution.distance_quantiles, dtype=np.float64)
        attacked = manifest.HasField("robust_margin")
        self._robust_margin = manifest.robust_margin.margin if attacked else NO_ROBUST_MARGIN
        self._robust_share = manifest.robust_margin.share

    def coverage(self, options: prediction_pb2.PredictOptions) -> float:
        """Coverage asked for by the request, or the policy's."""
        return options.coverage if options.HasField("coverage") else self.manifest.policy.coverage

    def verdicts(self, outputs: Outputs) -> list[Verdict]:
        """Judge N rows at once, which costs little more than one."""
        finite = np.isfinite(outputs.probabilities).all(axis=1) & np.isfinite(outputs.logits).all(axis=1)
        probabilities = outputs.probabilities.astype(np.float64)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        ranked = np.take_along_axis(probabilities, order[:, :2], axis=1)
        votes = outputs.head_probabilities.argmax(axis=2)  # [N, K]
        columns: tuple[NDArray[Any], ...] = (
            np.asarray(finite),
            outputs.logits,
            probabilities,
            order,
            label_scores(probabilities, self._quantiles),
            ranked[:, 0] - ranked[:, 1],
            np.full(len(votes), votes.shape[1]),
            (votes == order[:, :1]).mean(axis=1),
            np.maximum(outputs.entropy, 0.0),  # rounding may fall a hair below 0
            np.maximum(outputs.mutual_information, 0.0),
            outputs.energy,
            outputs.distance,
            share_nearer(self._distances, outputs.distance.astype(np.float64)),
        )
        return list(map(Verdict._make, zip(*(column.tolist() for column in columns), strict=True)))

    def prediction(
        self,
        verdict: Verdict,
        *,
        coverage: float,
        knowledge: prediction_pb2.KnowledgeUncertainty,
        explanation: prediction_pb2.ExplanationUncertainty,
    ) -> prediction_pb2.Prediction:
        """The prediction of one row, without id, mentions, evidence and probes, which the model did not make."""
        limit = largest_score(self._quantiles, coverage)
        conforming = [self.labels[label] for label in verdict.order if verdict.scores[label] <= limit]
        reasons = self._abstain_reasons(len(conforming), verdict.distance_quantile, knowledge)
        top = verdict.order[0]
        return prediction_pb2.Prediction(
            label=self.labels[top],
            probability=verdict.probabilities[top],
            scores=[
                prediction_pb2.LabelScore(label=label, probability=probability, logit=logit)
                for label, probability, logit in zip(self.labels, verdict.probabilities, verdict.logits, strict=True)
            ],
            prediction_set=prediction_pb2.PredictionSet(
                labels=conforming, coverage=coverage, method=self._quantiles.method
            ),
            decision=prediction_pb2.DECISION_ABSTAIN if reasons else prediction_pb2.DECISION_ACCEPT,
            abstain_reasons=reasons,
            uncertainty=prediction_pb2.Uncertainty(
                entropy=verdict.entropy,
                model=prediction_pb2.ModelUncertainty(
                    heads=verdict.heads,
                    mutual_information=verdict.mutual_information,
                    agreement=verdict.agreement,
                    energy=verdict.energy,
                    distance=verdict.distance,
                    distance_quantile=verdict.distance_quantile,
                ),
                sensitivity=prediction_pb2.SensitivityUncertainty(
                    margin=verdict.margin,
                    robust_margin=self._robust_margin,
                    robust_share=self._robust_share,
                    covered=verdict.margin >= self._robust_margin,
                ),
                knowledge=knowledge,
                explanation=explanation,
            ),
        )

    def _abstain_reasons(
        self, set_size: int, distance_quantile: float, knowledge: prediction_pb2.KnowledgeUncertainty
    ) -> list[prediction_pb2.AbstainReason.ValueType]:
        policy = self.manifest.policy
        reasons = [
            (set_size != 1, prediction_pb2.ABSTAIN_REASON_AMBIGUOUS),
            (distance_quantile > policy.max_distance_quantile, prediction_pb2.ABSTAIN_REASON_OUT_OF_DISTRIBUTION),
            (policy.require_grounding and knowledge.not_in_graph, prediction_pb2.ABSTAIN_REASON_NOT_GROUNDED),
        ]
        return [reason for applies, reason in reasons if applies]


def share_nearer(quantiles: Floats, distances: Floats) -> Floats:
    """Share of the calibration data nearer than each distance, in [0, 1], linear between the quantiles.

    `quantiles` [Q] ascending at even steps from 0 to 1; `distances` [N]. Strictly nearer: on a flat stretch it is the
    lower end, so that a model whose distance is constant never looks out of distribution. Not a number counts as far.
    """
    last = len(quantiles) - 1
    above = np.searchsorted(quantiles, distances, side="left")
    right = np.clip(above, 1, last)
    low, high = quantiles[right - 1], quantiles[right]
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.where(high > low, (distances - low) / (high - low), 0.0)
    share = (right - 1 + part) / last
    result: Floats = np.where(above == 0, 0.0, np.where(above > last, 1.0, share))
    return result


def count_conflicts(evidence: Sequence[Evidence]) -> int:
    """Subject and predicate pairs for which two named graphs state other objects, or a functional property has several.

    The latter is known from the whole graph (`Evidence.conflicting`), so that one of the values as evidence is enough.
    What was inferred is no statement of a source of its own.
    """
    conflicts = {(triple.subject, triple.predicate) for triple in evidence if triple.conflicting}
    if len({triple.graph for triple in evidence}) < 2:  # as in most graphs, where no two sources can differ
        return len(conflicts)
    stated: dict[tuple[Term, Term], dict[str, set[Term]]] = defaultdict(lambda: defaultdict(set))
    for triple in evidence:
        if triple.graph and triple.graph != INFERRED_GRAPH:
            stated[triple.subject, triple.predicate][triple.graph].add(triple.object)
    for pair, by_graph in stated.items():
        if len({frozenset(objects) for objects in by_graph.values()}) > 1:
            conflicts.add(pair)
    return len(conflicts)
