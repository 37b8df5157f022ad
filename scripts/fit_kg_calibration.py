"""Fit `groundwire.kg.link._CALIBRATION` on the dev splits of InfoTabS and ATT&CK, and print it.

Run it with GROUNDWIRE_DATA naming the folder of the data sets, after the weights of `groundwire.kg.link` changed. The
score of a mention is the probability that its span is a name at all, times the share of the entity among those of that
name. The first factor p is mapped to sigmoid(a + b logit(p)) (Platt 1999), a and b by maximum likelihood of the score,
both data sets with equal weight. The order of scores within a mention and what is linked stay as they are.
"""

import sys
import tempfile
from math import exp, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from bench_kg_links import DATA, Claims, measure_attack

from groundwire.kg import CompiledRetriever, compile_graph
from groundwire.kg.link import _CALIBRATION

Array = NDArray[np.float64]


def columns(judged: list) -> tuple[Array, Array, Array]:
    """Logit before calibration, share, and verdict of each mention."""
    offset, slope = _CALIBRATION
    names = np.clip([one.name for one in judged], 1e-6, 1 - 1e-6)
    logits = (np.log(names / (1 - names)) - offset) / slope
    share = np.array([one.score for one in judged]) / names
    return logits, np.minimum(share, 1.0), np.array([one.right for one in judged], dtype=float)


def loss(sets: list[tuple[Array, Array, Array]], offset: float, slope: float) -> float:
    """Mean negative log-likelihood over the sets."""
    total = 0.0
    for logits, share, right in sets:
        score = np.clip(share / (1 + np.exp(-(offset + slope * logits))), 1e-6, 1 - 1e-6)
        total -= float(np.mean(right * np.log(score) + (1 - right) * np.log(1 - score)))
    return total / len(sets)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        retriever = CompiledRetriever(compile_graph(DATA / "infotabs" / "graph.nq.gz", Path(folder) / "infotabs"))
        claims = Claims(retriever, "dev")
        sets = [columns(claims.measure()[1])]
        retriever = CompiledRetriever(compile_graph(DATA / "attack" / "graph.nt.gz", Path(folder) / "attack"))
        sets.append(columns(measure_attack(retriever, "dev")[1]))
    best, step = (0.0, 1.0), 0.5
    while step > 0.004:  # a descent over two numbers, of a convex loss
        around = [(best[0] + a * step, best[1] + b * step) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        found = min((pair for pair in around if pair[1] > 0), key=lambda pair: loss(sets, *pair))
        if found == best:
            step /= 2
        best = found
    print(f"_CALIBRATION = {best[0]:.2f}, {best[1]:.2f}  # loss {loss(sets, *best):.4f}, was {loss(sets, 0, 1):.4f}")
    for name in (0.3, 0.5, 0.7, 0.9, 0.95):
        print(f"{name} -> {1 / (1 + exp(-(best[0] + best[1] * log(name / (1 - name))))):.3f}")


if __name__ == "__main__":
    main()
