"""Carlini & Wagner's L2 attack (2017): the smallest perturbation that fools, not the worst within a ball.

    minimise over δ of ‖δ‖² + c · max(z_y - max over i ≠ y of z_i + κ, 0), with c found by binary search

B examples, C labels; points are [B, ...].
"""

import torch
from torch import Tensor

from groundwire.export.attacks.losses import margin
from groundwire.export.attacks.threat import NORMS, Logits


def carlini_wagner(
    logits: Logits,
    point: Tensor,
    labels: Tensor,
    *,
    steps: int = 200,
    searches: int = 6,
    learning_rate: float = 0.01,
    constant: float = 1e-2,
    confidence: float = 0.0,
    bounds: tuple[float, float] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Find near points with a wrong label.

    Args:
        logits: differentiable, in evaluation mode; parameters are not touched.
        point: [B, ...]; inside the bounds when there are any.
        labels: [B] true labels.
        steps: steps of Adam for each constant.
        searches: constants tried for each example, by tenfold steps up, then by bisection.
        learning_rate: of Adam, in units of the point, or of the tanh space when there are bounds.
        constant: first constant c.
        confidence: margin κ of the logits that must be reached.
        bounds: smallest and largest value of a coordinate. Kept by searching over tanh, as in the paper.
        mask: broadcastable to `point`; 0 where nothing may change.

    Returns:
        [B, ...], detached: the nearest point found with a wrong label, or the point itself where there is none.
        Points that are wrong from the start come back as they are. The accuracy at radius ε is the share of labels
        that stand or whose point lies further than ε.
    """
    point = point.detach()
    space = _Space(point, bounds, mask)
    nearest = torch.full((len(point),), torch.inf, device=point.device)
    found = point.clone()
    with torch.no_grad():
        nearest[logits(point).argmax(dim=1) != labels] = 0.0
    c = torch.full_like(nearest, constant)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(searches):
        w = space.start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([w], lr=learning_rate)
        fooled = torch.zeros_like(nearest, dtype=torch.bool)
        for step in range(steps + 1):
            moved = space.inside(w)
            out = logits(moved)
            gap = margin(out, labels)
            distance = (moved - point).square().flatten(1).sum(dim=1)
            with torch.no_grad():
                success = (gap > 0) & (gap >= confidence)
                fooled |= success
                nearer = success & (distance < nearest)
                nearest = torch.where(nearer, distance, nearest)
                found[nearer] = moved.detach()[nearer]
            if step < steps:
                loss = distance + c * (confidence - gap).clamp_min(0.0)
                (w.grad,) = torch.autograd.grad(loss.sum(), w)
                optimizer.step()
        low, high = torch.where(fooled, low, c), torch.where(fooled, torch.minimum(high, c), high)
        c = torch.where(high.isinf(), 10.0 * c, (low + high) / 2)
    return found


def robust_at(point: Tensor, found: Tensor, wrong: Tensor, epsilon: float) -> Tensor:
    """Which examples stand at radius ε in L2: those not wrong, or whose nearest point lies further. bool [B]"""
    return ~wrong | (NORMS["l2"].length(found - point) > epsilon)


class _Space:
    """The space that is searched: tanh within bounds, the point's own without."""

    def __init__(self, point: Tensor, bounds: tuple[float, float] | None, mask: Tensor | None) -> None:
        self.point, self.mask, self.bounds = point, mask, bounds
        if bounds is None:
            self.start = torch.zeros_like(point)
        else:
            self.centre, self.half = (bounds[0] + bounds[1]) / 2, (bounds[1] - bounds[0]) / 2
            # tanh reaches its ends only at infinity.
            self.start = torch.atanh(((point - self.centre) / self.half).clamp(-1, 1) * (1 - 1e-6))

    def inside(self, w: Tensor) -> Tensor:
        moved = self.point + w if self.bounds is None else self.centre + self.half * torch.tanh(w)
        return moved if self.mask is None else self.point + (moved - self.point) * self.mask
