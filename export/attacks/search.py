"""Attacks without gradients: random noise, and random search on the margin.

They are weak by design of an honest model and strong where a model hides its gradients; the masking checks compare.
B examples, C labels; points are [B, ...].
"""

import torch
from torch import Tensor

from groundwire.export.attacks.best import Best
from groundwire.export.attacks.losses import margin
from groundwire.export.attacks.threat import NORMS, Logits, Threat


@torch.no_grad()
def noise(
    logits: Logits, point: Tensor, labels: Tensor, threat: Threat, draws: int, *, mask: Tensor | None = None
) -> Tensor:
    """The worst of `draws` random perturbations in the ball. Returns the perturbed points, [B, ...]."""
    best = Best(point)
    for _ in range(draws):
        delta = threat.start(point, mask)
        out = logits(point + delta)
        best.offer(delta, out, labels, margin(out, labels))
    return point + best.delta


@torch.no_grad()
def random_search(
    logits: Logits, point: Tensor, labels: Tensor, threat: Threat, queries: int, *, mask: Tensor | None = None
) -> Tensor:
    """Square Attack (Andriushchenko et al. 2020) without its squares: it reads logits only, never a gradient.

    Starts at a vertex of the ball; each query sets a random share of the coordinates anew, and the change is kept where
    it raises the margin. The share falls from a half to a coordinate or two.

    Args:
        logits: any function, also one that can't be differentiated.
        point: [B, ...], where the attack starts.
        labels: [B] true labels.
        threat: radius, norm, bounds.
        queries: logits read for each example, the first included.
        mask: broadcastable to `point`; 0 where nothing may change.

    Returns:
        The perturbed points, [B, ...].
    """
    best = Best(point)
    delta = _vertex(point, threat, mask)
    out = logits(point + delta)
    value = margin(out, labels)
    best.offer(delta, out, labels, value)
    rows = (-1, *[1] * (point.dim() - 1))
    for query in range(1, queries):
        share = max(0.5 * (1 - query / queries) ** 2, 1.5 / point[0].numel())
        chosen = torch.rand_like(point) < share
        trial = threat.confine(point, torch.where(chosen, _vertex(point, threat, mask), delta), mask)
        out = logits(point + trial)
        gap = margin(out, labels)
        best.offer(trial, out, labels, gap)
        better = gap > value
        value = torch.where(better, gap, value)
        delta = torch.where(better.view(rows), trial, delta)
    return point + best.delta


def _vertex(point: Tensor, threat: Threat, mask: Tensor | None) -> Tensor:
    """A random perturbation of full length."""
    signs = torch.randint(0, 2, point.shape, device=point.device).to(point.dtype) * 2 - 1
    signs = signs if mask is None else signs * mask
    lengths = NORMS[threat.norm].length(signs).clamp_min(1e-12)
    return threat.confine(point, signs * (threat.epsilon / lengths).view(-1, *[1] * (point.dim() - 1)), mask)
