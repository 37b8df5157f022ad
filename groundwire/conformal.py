"""Split conformal prediction sets for classification, from stored conformity scores.

The scores of the calibration data travel in the manifest, sorted, so that a request can ask for any coverage.
Methods: LAC (Sadinle et al. 2019), APS (Romano et al. 2020) and RAPS (Angelopoulos et al. 2021), all deterministic:
a label enters a set when its own score is at most the quantile. Without the random tie-breaking of the APS paper the
coverage guarantee still holds (from below); the sets are a little larger.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from groundwire.v1 import bundle_pb2, prediction_pb2

Floats = NDArray[np.float64]

LAC = prediction_pb2.CONFORMAL_METHOD_LAC
APS = prediction_pb2.CONFORMAL_METHOD_APS
RAPS = prediction_pb2.CONFORMAL_METHOD_RAPS
MAX_SCORES = 10_000


def label_scores(probabilities: Floats, quantiles: bundle_pb2.ConformalQuantiles) -> Floats:
    """Conformity score of every label. [N, C] probabilities -> [N, C] scores; lower conforms better."""
    if quantiles.method == LAC:
        return 1.0 - probabilities
    rows = np.arange(len(probabilities))[:, np.newaxis]
    order = np.argsort(-probabilities, axis=1, kind="stable")
    mass = np.cumsum(probabilities[rows, order], axis=1)
    if quantiles.method == RAPS:
        ranks = np.arange(1, probabilities.shape[1] + 1)
        mass = mass + quantiles.regularisation * np.maximum(ranks - quantiles.regularisation_rank, 0)
    scores = np.empty_like(mass)
    scores[rows, order] = mass
    return scores


def fit(
    probabilities: Floats,
    labels: NDArray[np.int64],
    method: prediction_pb2.ConformalMethod.ValueType,
    *,
    regularisation: float = 0.01,
    regularisation_rank: int = 1,
) -> bundle_pb2.ConformalQuantiles:
    """Score calibration data. `probabilities` [N, C], `labels` [N] indices of the true labels, N at least 1.

    More than 10,000 scores are thinned to evenly spaced order statistics, rounded up, so that coverage is kept.
    """
    quantiles = bundle_pb2.ConformalQuantiles(method=method)
    if method == RAPS:
        quantiles.regularisation = regularisation
        quantiles.regularisation_rank = regularisation_rank
    scores = np.sort(label_scores(probabilities, quantiles)[np.arange(len(labels)), labels])
    if len(scores) > MAX_SCORES:
        scores = scores[np.ceil(np.linspace(0, len(scores) - 1, MAX_SCORES)).astype(np.int64)]
    quantiles.scores.extend(scores.tolist())
    return quantiles


def threshold(scores: Sequence[float], coverage: float) -> float:
    """Quantile of sorted `scores`: number ceil((n + 1) coverage), or infinity when n is too small for `coverage`."""
    rank = ceil((len(scores) + 1) * coverage)
    return float("inf") if rank > len(scores) else float(scores[rank - 1])


def prediction_sets(
    probabilities: Floats, quantiles: bundle_pb2.ConformalQuantiles, coverage: float
) -> NDArray[np.bool_]:
    """Which labels are in the set of each row. [N, C] probabilities -> [N, C] booleans."""
    member: NDArray[np.bool_] = label_scores(probabilities, quantiles) <= largest_score(quantiles, coverage)
    return member


def largest_score(quantiles: bundle_pb2.ConformalQuantiles, coverage: float) -> float:
    """The score up to which a label is in the set.

    A little above the quantile: served probabilities are float32, so the same sum, in APS often 1, may come out higher.
    """
    return threshold(quantiles.scores, coverage) + 1e-5
