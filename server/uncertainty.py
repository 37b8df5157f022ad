"""From the model's outputs and the manifest to probabilities, conformal set, uncertainty by cause, and decision."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from groundwire.conformal import label_scores, largest_score
from groundwire.kg.settings import INFERRED_GRAPH
from groundwire.kg.types import Evidence, Term
from groundwire.server.runtime import Outputs
from groundwire.v1 import bundle_pb2, prediction_pb2

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
        self._distances = list(manifest.out_of_distribution.distance_quantiles)
        attacked = manifest.HasField("robust_margin")
        self._robust_margin = manifest.robust_margin.margin if attacked else NO_ROBUST_MARGIN
        self._robust_share = manifest.robust_margin.share

    def coverage(self, options: prediction_pb2.PredictOptions) -> float:
        """Coverage asked for by the request, or the policy's."""
        return options.coverage if options.HasField("coverage") else self.manifest.policy.coverage

    def verdicts(self, outputs: Outputs) -> list[Verdict]:
        """Judge N rows.

        Row by row: for few rows numpy takes longer to begin than Python to end, and for many not much less.
        """
        probabilities = outputs.probabilities.astype(np.float64)
        columns: tuple[NDArray[Any], ...] = (
            outputs.logits,
            probabilities,
            label_scores(probabilities, self._quantiles),
            outputs.head_probabilities,
            outputs.entropy,
            outputs.mutual_information,
            outputs.energy,
            outputs.distance,
        )
        return list(map(self._verdict, *(column.tolist() for column in columns)))

    def _verdict(
        self,
        logits: list[float],
        probabilities: list[float],
        scores: list[float],
        heads: list[list[float]],
        entropy: float,
        mutual_information: float,
        energy: float,
        distance: float,
    ) -> Verdict:
        order = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
        top = order[0]
        return Verdict(
            finite=all(map(isfinite, probabilities)) and all(map(isfinite, logits)),
            logits=logits,
            probabilities=probabilities,
            order=order,
            scores=scores,
            margin=probabilities[top] - probabilities[order[1]],
            heads=len(heads),
            agreement=sum([head.index(max(head)) == top for head in heads]) / len(heads),
            entropy=max(entropy, 0.0),  # rounding may fall a hair below 0
            mutual_information=max(mutual_information, 0.0),
            energy=energy,
            distance=distance,
            distance_quantile=share_nearer(self._distances, distance),
        )

    def decide(
        self, prediction: prediction_pb2.Prediction, verdict: Verdict, coverage: float, *, not_in_graph: bool
    ) -> None:
        """Fill in what the model says of one row, in place: all but id, mentions, evidence, knowledge and probes."""
        limit = largest_score(self._quantiles, coverage)
        conforming = [self.labels[label] for label in verdict.order if verdict.scores[label] <= limit]
        reasons = self._abstain_reasons(len(conforming), verdict.distance_quantile, not_in_graph=not_in_graph)
        top = verdict.order[0]
        prediction.label = self.labels[top]
        prediction.probability = verdict.probabilities[top]
        for label, probability, logit in zip(self.labels, verdict.probabilities, verdict.logits, strict=True):
            prediction.scores.add(label=label, probability=probability, logit=logit)
        conformal = prediction.prediction_set
        conformal.labels.extend(conforming)
        conformal.coverage, conformal.method = coverage, self._quantiles.method
        prediction.decision = prediction_pb2.DECISION_ABSTAIN if reasons else prediction_pb2.DECISION_ACCEPT
        prediction.abstain_reasons.extend(reasons)
        prediction.uncertainty.entropy = verdict.entropy
        model = prediction.uncertainty.model
        model.heads, model.agreement = verdict.heads, verdict.agreement
        model.mutual_information, model.energy = verdict.mutual_information, verdict.energy
        model.distance, model.distance_quantile = verdict.distance, verdict.distance_quantile
        sensitivity = prediction.uncertainty.sensitivity
        sensitivity.margin, sensitivity.covered = verdict.margin, verdict.margin >= self._robust_margin
        sensitivity.robust_margin, sensitivity.robust_share = self._robust_margin, self._robust_share

    def _abstain_reasons(
        self, set_size: int, distance_quantile: float, *, not_in_graph: bool
    ) -> list[prediction_pb2.AbstainReason.ValueType]:
        policy = self.manifest.policy
        reasons = [
            (set_size != 1, prediction_pb2.ABSTAIN_REASON_AMBIGUOUS),
            (distance_quantile > policy.max_distance_quantile, prediction_pb2.ABSTAIN_REASON_OUT_OF_DISTRIBUTION),
            (policy.require_grounding and not_in_graph, prediction_pb2.ABSTAIN_REASON_NOT_GROUNDED),
        ]
        return [reason for applies, reason in reasons if applies]


def share_nearer(quantiles: Sequence[float], distance: float) -> float:
    """Share of the calibration data nearer than a distance, in [0, 1], linear between the quantiles.

    `quantiles` ascend, at even steps from 0 to 1. Strictly nearer: on a flat stretch it is the lower end, so that a
    model whose distance is constant never looks out of distribution. Not a number counts as far.
    """
    last = len(quantiles) - 1
    if not distance <= quantiles[last]:
        return 1.0
    above = bisect_left(quantiles, distance)
    if above == 0:
        return 0.0
    low, high = quantiles[above - 1], quantiles[above]
    return (above - 1 + (distance - low) / (high - low)) / last


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
