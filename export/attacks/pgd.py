"""FGSM and PGD: the inner maximum of min over θ of max over ‖δ‖ ≤ ε of the loss.

An attack sees a function from a point to logits and knows nothing of models or texts: a point may be a batch of images,
or of word embeddings. Losses are taken on the logits as they are, before any temperature: dividing logits by a large
temperature hides the gradient without making a model robust.

B examples, C labels; points are [B, ...].
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from groundwire.export.attacks.best import Best
from groundwire.export.attacks.threat import Logits, Threat


def fgsm(
    logits: Logits,
    point: Tensor,
    labels: Tensor,
    epsilon: float,
    *,
    norm: str = "linf",
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2015). Returns the perturbed points, [B, ...]."""
    threat = Threat(epsilon, norm, steps=1, random_start=False, bounds=bounds)
    return pgd(logits, point, labels, threat, mask=mask)


def pgd(logits: Logits, point: Tensor, labels: Tensor, threat: Threat, *, mask: Tensor | None = None) -> Tensor:
    """Projected gradient descent on the cross-entropy (Madry et al. 2018); see `Best` for what is kept.

    Args:
        logits: differentiable, in evaluation mode; parameters are not touched.
        point: [B, ...], where the attack starts.
        labels: [B] true labels.
        threat: radius, norm, steps, restarts.
        mask: broadcastable to `point`; 0 where nothing may change, such as padding.

    Returns:
        The perturbed points, [B, ...], detached.
    """
    point = point.detach()
    best = Best(point)
    for restart in range(threat.restarts):
        random = threat.random_start or restart > 0
        delta = threat.start(point, mask) if random else torch.zeros_like(point)
        for step in range(threat.steps + 1):
            delta.requires_grad_(step < threat.steps)
            with torch.set_grad_enabled(step < threat.steps):
                out = logits(point + delta)
                loss = cross_entropy(out, labels, reduction="none")
            best.offer(delta, out, labels, loss)
            if step < threat.steps:
                (gradient,) = torch.autograd.grad(loss.sum(), delta)
                delta = threat.move(point, delta.detach(), gradient, mask)
    return point + best.delta
