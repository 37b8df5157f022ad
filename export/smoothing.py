"""Randomised smoothing (Cohen et al. 2019): a radius in L2 that no attack can break, known or not.

The smoothed classifier answers with the label that the model gives most often under Gaussian noise of deviation σ. If
that label has probability at least p > 1/2, no perturbation shorter than σ · Φ⁻¹(p) changes the answer. p is a lower
bound from samples (Clopper & Pearson 1934), so a radius is wrong with probability α at most.

B examples, C labels; points are [B, ...].
"""

from dataclasses import dataclass

import torch
from scipy.stats import beta, norm
from torch import Tensor

from groundwire.export.attacks.threat import Logits

ABSTAIN = -1


@dataclass(frozen=True, slots=True)
class Certified:
    """Labels int64 [B], `ABSTAIN` where noise leaves too much doubt; radii [B] in units of the point, 0 there."""

    labels: Tensor
    radii: Tensor

    def accuracy(self, truth: Tensor, radius: float) -> float:
        """Share of examples that are certified, with the true label, at `radius` or beyond."""
        return float(((self.labels == truth) & (self.radii >= radius) & (self.labels != ABSTAIN)).float().mean())


def clopper_pearson_lower(hits: int, n: int, alpha: float) -> float:
    """One-sided lower bound of a share, right with probability 1 - α: in [0, 1]."""
    return float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0


def certify_smoothed(
    logits: Logits,
    point: Tensor,
    sigma: float,
    *,
    choosing: int = 100,
    samples: int = 1000,
    alpha: float = 0.001,
    mask: Tensor | None = None,
    seed: int = 0,
) -> Certified:
    """Certify each point (CERTIFY of Cohen et al. 2019, algorithm 1).

    Args:
        logits: the model, in evaluation mode; called once a sample with the whole batch.
        point: [B, ...].
        sigma: deviation of the noise, in units of the point.
        choosing: samples that choose the label; others than those that bound its probability.
        samples: samples that bound it. The largest radius they can show is σ · Φ⁻¹(α ** (1 / samples)).
        alpha: probability that a radius is wrong, for each example.
        mask: broadcastable to `point`; 0 where no noise goes, such as padding.
        seed: of the noise; the global generator is left as it was.

    Raises:
        ValueError: sigma is not above 0, or alpha not between 0 and 1.
    """
    if sigma <= 0 or not 0 < alpha < 1:
        raise ValueError("sigma must be above 0, alpha between 0 and 1")
    generator = torch.Generator(device=point.device).manual_seed(seed)
    chosen = _counts(logits, point, sigma, choosing, mask, generator).argmax(dim=1)
    counts = _counts(logits, point, sigma, samples, mask, generator)
    hits = counts.gather(1, chosen.unsqueeze(1)).squeeze(1)
    bounds = [clopper_pearson_lower(n, samples, alpha) for n in hits.tolist()]
    sure = torch.tensor([p > 0.5 for p in bounds], device=point.device)
    radii = torch.tensor([sigma * float(norm.ppf(p)) if p > 0.5 else 0.0 for p in bounds], device=point.device)
    return Certified(torch.where(sure, chosen, torch.full_like(chosen, ABSTAIN)), radii)


@torch.no_grad()
def _counts(
    logits: Logits, point: Tensor, sigma: float, samples: int, mask: Tensor | None, generator: torch.Generator
) -> Tensor:
    """How often each label comes out. int64 [B, C]"""
    counts: Tensor | None = None
    rows = torch.arange(len(point), device=point.device)
    for _ in range(samples):
        noise = sigma * torch.randn(point.shape, generator=generator, dtype=point.dtype, device=point.device)
        out = logits(point + (noise if mask is None else noise * mask))
        if counts is None:
            counts = torch.zeros(out.shape, dtype=torch.int64, device=point.device)
        counts[rows, out.argmax(dim=1)] += 1
    if counts is None:
        raise ValueError("choosing and samples must be 1 or more")
    return counts
