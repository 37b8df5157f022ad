"""APGD (Croce & Hein 2020): PGD with momentum that halves its own step size, so that none has to be chosen.

B examples, C labels; points are [B, ...].
"""

import torch
from torch import Tensor

from groundwire.export.attacks.best import Best
from groundwire.export.attacks.losses import LOSSES, Loss
from groundwire.export.attacks.threat import NORMS, Logits, Threat

MOMENTUM = 0.75
# Share of the steps between two checkpoints that must raise the loss.
RISING = 0.75


def checkpoints(steps: int) -> list[int]:
    """Steps at which the step size is looked at: gaps of 22 % of the steps, each 3 % shorter, at least 6 %."""
    gap, least, shrink = max(int(0.22 * steps), 1), max(int(0.06 * steps), 1), max(int(0.03 * steps), 1)
    out = []
    at = gap
    while at < steps:
        out.append(at)
        gap = max(gap - shrink, least)
        at += gap
    return out


def apgd(
    logits: Logits, point: Tensor, labels: Tensor, threat: Threat, *, loss: str = "ce", mask: Tensor | None = None
) -> Tensor:
    """Auto-PGD; see `Best` for what is kept. `step_size` and `random_start` of the threat are not read.

    Args:
        logits: differentiable, in evaluation mode; parameters are not touched.
        point: [B, ...], where the attack starts.
        labels: [B] true labels.
        threat: radius, norm, steps, restarts.
        loss: "ce", or "dlr", which does not depend on the scale of the logits.
        mask: broadcastable to `point`; 0 where nothing may change.

    Returns:
        The perturbed points, [B, ...], detached.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss {loss!r} is not known; use one of {', '.join(LOSSES)}")
    point = point.detach()
    best = Best(point)
    for _ in range(threat.restarts):
        _run(logits, point, labels, threat, LOSSES[loss], mask, best)
    return point + best.delta


def _run(
    logits: Logits, point: Tensor, labels: Tensor, threat: Threat, loss: Loss, mask: Tensor | None, best: Best
) -> None:
    """One restart."""
    norm = NORMS[threat.norm]

    def look(delta: Tensor) -> tuple[Tensor, Tensor]:
        """Loss [B] and its gradient, [B, ...]."""
        delta = delta.detach().requires_grad_(True)
        out = logits(point + delta)
        values = loss(out, labels)
        best.offer(delta, out, labels, values)
        (gradient,) = torch.autograd.grad(values.sum(), delta)
        return values.detach(), gradient if mask is None else gradient * mask

    rows = (-1, *[1] * (point.dim() - 1))
    # The first start lies on the sphere, as in the authors' code.
    direction = threat.start(point, mask)
    scale = threat.epsilon / norm.length(direction).clamp_min(1e-12)
    delta = threat.confine(point, direction * scale.view(rows), mask)
    values, gradient = look(delta)
    top_loss, top_delta, top_gradient = values.clone(), delta.clone(), gradient.clone()
    step = torch.full_like(values, 2.0 * threat.epsilon)
    rises = torch.zeros_like(values)
    halved = torch.ones_like(values, dtype=torch.bool)
    top_at_checkpoint = top_loss.clone()
    previous, last_checkpoint = delta.clone(), 0
    at = set(checkpoints(threat.steps))
    for number in range(1, threat.steps + 1):
        momentum = MOMENTUM if number > 1 else 1.0
        ahead = threat.confine(point, delta + step.view(rows) * norm.step(gradient), mask)
        moved = delta + momentum * (ahead - delta) + (1.0 - momentum) * (delta - previous)
        previous, delta = delta, threat.confine(point, moved, mask)
        before = values
        values, gradient = look(delta)
        rises += values > before
        better = values > top_loss
        top_loss = torch.where(better, values, top_loss)
        top_delta[better], top_gradient[better] = delta[better], gradient[better]
        if number in at:
            few = rises < RISING * (number - last_checkpoint)
            stuck = ~halved & (top_loss <= top_at_checkpoint)
            halved = few | stuck
            step = torch.where(halved, step / 2, step)
            delta[halved], gradient[halved] = top_delta[halved], top_gradient[halved]
            values = torch.where(halved, top_loss, values)
            top_at_checkpoint = top_loss.clone()
            rises.zero_()
            last_checkpoint = number
