"""Figures of merit for probabilistic classifiers, in NumPy, shared by the certificate and `groundwire evaluate`.

N examples, C labels; `probabilities` is [N, C] with rows that add up to 1, `labels` [N] holds indices.
"""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def accuracy(probabilities: Floats, labels: Ints) -> float:
    """Share of rows whose most probable label is the true one."""
    return float(np.mean(probabilities.argmax(axis=1) == labels))


def macro_f1(probabilities: Floats, labels: Ints) -> float:
    """Unweighted mean over the labels that occur, or were predicted, of the F1 score."""
    predicted = probabilities.argmax(axis=1)
    scores = []
    for label in np.union1d(labels, predicted):
        hits = np.sum((predicted == label) & (labels == label))
        scores.append(2 * hits / (np.sum(predicted == label) + np.sum(labels == label)))
    return float(np.mean(scores))


def nll(probabilities: Floats, labels: Ints) -> float:
    """Mean negative log likelihood, nats. Probabilities are floored at 1e-12."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def brier(probabilities: Floats, labels: Ints) -> float:
    """Brier score summed over labels, mean over rows, in [0, 2] (Brier 1950)."""
    return float(np.square(probabilities - np.eye(probabilities.shape[1])[labels]).sum(axis=1).mean())


def ece(probabilities: Floats, labels: Ints, bins: int = 15) -> float:
    """Expected calibration error of the top label over `bins` bins of equal width, (lo, hi] (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = (
        abs(float(confidence[index == b].mean()) - float(correct[index == b].mean())) * float(np.mean(index == b))
        for b in np.unique(index)
    )
    return float(sum(gaps))


def aurc(probabilities: Floats, labels: Ints) -> float:
    """Area under the risk-coverage curve with the top probability as confidence (Geifman et al. 2018), in [0, 1]."""
    order = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = (probabilities.argmax(axis=1) != labels)[order]
    return float(np.mean(np.cumsum(wrong) / np.arange(1, len(wrong) + 1)))


def auroc(negatives: Floats, positives: Floats) -> float:
    """Probability that a random positive scores above a random negative, ties counting half."""
    scores = np.concatenate([negatives, positives])
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]  # mean rank of each tied group, from 1
    n, m = len(negatives), len(positives)
    return float((ranks[n:].sum() - m * (m + 1) / 2) / (n * m))


def wilson(hits: int, n: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """Wilson score interval for a share (Wilson 1927): ends in [0, 1]; (0, 1) when n is 0. Default z: 95 %."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding must not put the share itself outside.
    return min(share, max(0.0, (centre - half) / scale)), max(share, min(1.0, (centre + half) / scale))
