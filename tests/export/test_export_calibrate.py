"""Temperature, conformal sets, robust margin and figures of merit against independent oracles."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from groundwire import conformal, metrics
from groundwire.export.calibrate import ensemble_probabilities, fit_robust_margin, fit_temperature, margins

RNG = np.random.default_rng(0)


def sample(n: int, labels: int = 4, sharpness: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and labels drawn from them, so that they are calibrated."""
    logits = RNG.normal(size=(n, labels)) * sharpness
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, np.array([RNG.choice(labels, p=p) for p in probabilities])


def test_metrics_agree_with_their_oracles():
    p, y = sample(800)
    assert metrics.ece(p, y) == pytest.approx(
        float(multiclass_calibration_error(torch.tensor(p), torch.tensor(y), 4, n_bins=15)), abs=1e-6
    )
    assert metrics.nll(p, y) == pytest.approx(log_loss(y, p, labels=range(4)))
    assert metrics.macro_f1(p, y) == pytest.approx(f1_score(y, p.argmax(axis=1), average="macro"))
    assert metrics.brier(p, y) == pytest.approx(np.mean(np.sum((p - np.eye(4)[y]) ** 2, axis=1)))
    a, b = RNG.integers(0, 9, 200).astype(float), RNG.integers(3, 12, 300).astype(float)
    assert metrics.auroc(a, b) == pytest.approx(roc_auc_score([0] * 200 + [1] * 300, np.concatenate([a, b])))


def test_aurc_of_a_perfect_ranking_is_lower_than_of_a_reversed_one():
    confidence = np.linspace(0.55, 0.99, 10)
    p = np.stack([confidence, 1 - confidence], axis=1)
    good = metrics.aurc(p, np.array([1] * 3 + [0] * 7))
    bad = metrics.aurc(p, np.array([0] * 7 + [1] * 3))
    assert good == pytest.approx(np.mean([0] * 7 + [1 / 8, 2 / 9, 3 / 10]))
    assert bad > good


@pytest.mark.parametrize(("hits", "n", "low", "high"), [(0, 10, 0.0, 0.2775), (50, 100, 0.4038, 0.5962), (0, 0, 0, 1)])
def test_wilson_interval(hits, n, low, high):
    assert metrics.wilson(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_the_temperature_that_was_hidden_is_found():
    logits = RNG.normal(size=(4000, 1, 3)) * 2
    p = ensemble_probabilities(logits, 1.0)
    y = np.array([RNG.choice(3, p=row) for row in p])
    assert fit_temperature(logits * 3.0, y) == pytest.approx(3.0, rel=0.1)


@pytest.mark.parametrize("method", [conformal.LAC, conformal.APS, conformal.RAPS])
@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.97])
def test_conformal_sets_cover_what_they_promise(method, coverage):
    calibration, test = sample(3000), sample(3000)
    quantiles = conformal.fit(*calibration, method)
    sets = conformal.prediction_sets(test[0], quantiles, coverage)
    share = sets[np.arange(3000), test[1]].mean()
    assert coverage - 0.03 < share
    # Without random ties APS and RAPS need a label's whole mass, so near full coverage they return every label.
    assert sets.sum(axis=1).mean() < 4 or (method != conformal.LAC and coverage > 0.95)


def test_lac_agrees_with_mapie():
    from mapie.classification import SplitConformalClassifier
    from sklearn.linear_model import LogisticRegression

    x = RNG.normal(size=(900, 3))
    y = (x + RNG.normal(size=x.shape)).argmax(axis=1)
    model = LogisticRegression().fit(x[:300], y[:300])
    oracle = SplitConformalClassifier(model, confidence_level=0.85, conformity_score="lac", prefit=True)
    oracle.conformalize(x[300:600], y[300:600])
    expected = oracle.predict_set(x[600:])[1][:, :, 0]
    quantiles = conformal.fit(model.predict_proba(x[300:600]), y[300:600], conformal.LAC)
    assert np.array_equal(conformal.prediction_sets(model.predict_proba(x[600:]), quantiles, 0.85), expected)


def test_too_few_scores_for_the_coverage_give_the_whole_label_set():
    p, y = sample(5)
    assert conformal.prediction_sets(p, conformal.fit(p, y, conformal.LAC), 0.99).all()


def test_many_scores_are_thinned_and_keep_their_quantiles():
    p, y = sample(25_000)
    quantiles = conformal.fit(p, y, conformal.LAC)
    assert len(quantiles.scores) == conformal.MAX_SCORES
    exact = np.sort(1 - p[np.arange(len(y)), y])
    assert conformal.threshold(quantiles.scores, 0.9) == pytest.approx(float(np.quantile(exact, 0.9)), abs=0.002)


def test_the_robust_margin_is_the_least_that_holds():
    margin = np.linspace(0, 1, 101)
    kept = margin >= 0.4
    found, share = fit_robust_margin(margin, kept, share=0.95)
    assert (found, share) == (pytest.approx(0.4), 1.0)  # 61 stand: none may fall for so few to show 95 %
    loose, loose_share = fit_robust_margin(margin, kept, share=0.9)
    assert 0.3 < loose < 0.4
    assert loose_share > 0.9
    assert fit_robust_margin(margin[:50], np.ones(50, dtype=bool), share=0.95) == (1.01, 0.0)  # too few to show it
    assert fit_robust_margin(margin, np.zeros(101, dtype=bool), share=0.5) == (1.01, 0.0)


def test_margins_are_the_lead_of_the_first_label():
    assert margins(np.array([[0.2, 0.7, 0.1], [0.5, 0.5, 0.0]])) == pytest.approx([0.5, 0.0])


def test_a_robust_margin_is_seldom_promised_where_it_does_not_hold():
    rng = np.random.default_rng(0)
    margin = np.linspace(1, 0, 256)
    promised = [fit_robust_margin(margin, rng.random(256) < 0.93, share=0.95)[0] <= 1 for _ in range(400)]
    assert np.mean(promised) < 0.1


@pytest.mark.parametrize("method", [conformal.LAC, conformal.APS, conformal.RAPS])
def test_sets_hold_what_they_hold_also_in_float32(method):
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([0.3, 0.3], size=4000)
    labels = (rng.random(4000) < probabilities[:, 1]).astype(np.int64)
    quantiles = conformal.fit(probabilities[:2000], labels[:2000], method)
    for target in (0.9, 0.99):
        exact = conformal.prediction_sets(probabilities[2000:], quantiles, target)
        served = conformal.prediction_sets(
            probabilities[2000:].astype(np.float32).astype(np.float64), quantiles, target
        )
        assert served[np.arange(2000), labels[2000:]].mean() >= exact[np.arange(2000), labels[2000:]].mean() - 1e-9
