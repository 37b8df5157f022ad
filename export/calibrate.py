"""Calibration on held-out data: temperature, and the margin that the certificate's attack takes.

N examples, K heads, C labels.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import beta

from groundwire import metrics

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def ensemble_probabilities(head_logits: Floats, temperature: float) -> Floats:
    """Mean over the heads of softmax(logits / temperature). [N, K, C] -> [N, C]."""
    scaled = head_logits / temperature
    scaled = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    probabilities: Floats = (scaled / scaled.sum(axis=-1, keepdims=True)).mean(axis=1)
    return probabilities


def fit_temperature(head_logits: Floats, labels: Ints) -> float:
    """Temperature in [0.05, 20] with the least negative log likelihood (Guo et al. 2017) of the ensemble's mean."""
    result = minimize_scalar(
        lambda log_t: metrics.nll(ensemble_probabilities(head_logits, float(np.exp(log_t))), labels),
        bounds=(np.log(0.05), np.log(20.0)),
        method="bounded",
    )
    return float(np.exp(result.x))


def margins(probabilities: Floats) -> Floats:
    """Probability of the first label minus that of the second, [N] in [0, 1]."""
    top = np.sort(probabilities, axis=1)
    difference: Floats = top[:, -1] - top[:, -2]
    return difference


def fit_robust_margin(
    margin: Floats, kept: NDArray[np.bool_], share: float, confidence: float = 0.95
) -> tuple[float, float]:
    """Least margin above which at least `share` of the labels stand under attack, as far as the examples can tell.

    Margins are tried from the largest down, and the last one holds before the first whose lower confidence bound
    (Clopper and Pearson 1934) falls below `share`: testing in a fixed sequence keeps the confidence of one test.

    Args:
        margin: [N] margins without attack.
        kept: [N] whether the attack left the label unchanged.
        share: wanted share, at least 0 and below 1.
        confidence: of the bound.

    Returns:
        The margin and the share that stood there; (1.01, 0.0), which no margin reaches, when none will do.
    """
    order = np.argsort(-margin, kind="stable")
    stood = np.cumsum(kept[order]) / np.arange(1, len(order) + 1)
    # Examples of equal margin stand or fall together: only the last of a tie can be a boundary.
    last_of_tie = np.append(margin[order][1:] < margin[order][:-1], True)
    count = np.arange(1, len(order) + 1)
    successes = np.rint(stood * count)
    bound = beta.ppf(1 - confidence, successes, count - successes + 1)
    # So few that not even all of them could show it are no test.
    tested = np.flatnonzero(last_of_tie & (beta.ppf(1 - confidence, count, 1) >= share))
    failed = np.flatnonzero(~(bound[tested] >= share))
    good = tested[: failed[0]] if len(failed) else tested
    if not len(good):
        return 1.01, 0.0
    return float(margin[order][good[-1]]), float(stood[good[-1]])
