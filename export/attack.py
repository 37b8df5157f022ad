"""Gradient attacks on any differentiable classifier: the inner maximum of min over θ of max over ‖δ‖ ≤ ε.

An attack sees a function from a point to logits and knows nothing of models or texts: a point may be a batch of images,
or of word embeddings. Losses are taken on the logits as they are, before any temperature: dividing logits by a large
temperature hides the gradient without making a model robust.

B examples, C labels; points are [B, ...].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Logits = Callable[[Tensor], Tensor]  # point [B, ...] -> logits [B, C]


class Norm(Protocol):
    """What differs between norms: how to step uphill, how to come back into the ball, where to start."""

    name: str

    def step(self, gradient: Tensor) -> Tensor:
        """Direction of steepest ascent with norm 1."""

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """Nearest perturbation of norm `epsilon` or less."""

    def sample(self, like: Tensor, epsilon: float) -> Tensor:
        """Random perturbation of norm `epsilon` or less."""


class Linf:
    """Largest absolute change of any coordinate."""

    name = "linf"

    def step(self, gradient: Tensor) -> Tensor:
        """Sign of the gradient (Goodfellow et al. 2015)."""
        return gradient.sign()

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """Clip each coordinate."""
        return delta.clamp(-epsilon, epsilon)

    def sample(self, like: Tensor, epsilon: float) -> Tensor:
        """Uniform in the cube."""
        return torch.empty_like(like).uniform_(-epsilon, epsilon)


class L2:
    """Euclidean length over all coordinates of an example."""

    name = "l2"

    def step(self, gradient: Tensor) -> Tensor:
        """Gradient scaled to length 1."""
        return gradient / self._length(gradient).clamp_min(1e-12)

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """Shorten what is too long."""
        return delta * (epsilon / self._length(delta).clamp_min(1e-12)).clamp_max(1.0)

    def sample(self, like: Tensor, epsilon: float) -> Tensor:
        """Uniform in the ball: a direction, and a radius by the power of the dimension."""
        direction = self.step(torch.randn_like(like))
        radius = torch.rand(len(like), device=like.device) ** (1.0 / like[0].numel())
        return epsilon * direction * radius.view(-1, *[1] * (like.dim() - 1))

    @staticmethod
    def _length(x: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(x.flatten(1), dim=1)
        return lengths.view(-1, *[1] * (x.dim() - 1))


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2()}


@dataclass(frozen=True, slots=True)
class Threat:
    """What the attacker may do, and how hard it tries.

    epsilon: radius of the ball, in units of the point. norm: a key of `NORMS`. steps: gradient steps; 1 without a
    random start is FGSM. step_size: length of a step; None means 2.5 ε / steps (Madry et al. 2018), and ε for one
    step. restarts: runs, the first from the point itself when `random_start` is off. bounds: smallest and largest
    value that a coordinate may take, such as (0, 1) for images.
    """

    epsilon: float
    norm: str = "linf"
    steps: int = 10
    step_size: float | None = None
    random_start: bool = True
    restarts: int = 1
    bounds: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        """Refuse what no attack could do."""
        if self.norm not in NORMS:
            raise ValueError(f"norm {self.norm!r} is not known; use one of {', '.join(sorted(NORMS))}")
        if self.epsilon < 0 or self.steps < 1 or self.restarts < 1:
            raise ValueError("epsilon must be 0 or more, steps and restarts 1 or more")

    @property
    def length_of_step(self) -> float:
        """Length of one step, in units of the point."""
        if self.step_size is not None:
            return self.step_size
        return self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps

    def move(self, point: Tensor, delta: Tensor, gradient: Tensor, mask: Tensor | None = None) -> Tensor:
        """One ascent step from `delta`: returns the next perturbation, inside the ball, the bounds and the mask."""
        norm = NORMS[self.norm]
        gradient = gradient if mask is None else gradient * mask
        return self.confine(point, delta + self.length_of_step * norm.step(gradient), mask)

    def start(self, point: Tensor, mask: Tensor | None = None) -> Tensor:
        """A random perturbation to start from."""
        return self.confine(point, NORMS[self.norm].sample(point, self.epsilon), mask)

    def confine(self, point: Tensor, delta: Tensor, mask: Tensor | None) -> Tensor:
        """Bring a perturbation back into the mask, the ball and the bounds."""
        delta = delta if mask is None else delta * mask
        delta = NORMS[self.norm].project(delta, self.epsilon)
        return delta if self.bounds is None else (point + delta).clamp(*self.bounds) - point


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
    """Projected gradient descent on the cross-entropy (Madry et al. 2018).

    Keeps, for each example, the perturbation of any step and restart with a wrong label, and among those (or if there
    is none) the one of highest loss. More steps or restarts from the same random numbers are thus never weaker.

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
    best = torch.zeros_like(point)
    best_score = torch.full((len(point),), -torch.inf, device=point.device)
    for restart in range(threat.restarts):
        random = threat.random_start or restart > 0
        delta = threat.start(point, mask) if random else torch.zeros_like(point)
        for step in range(threat.steps + 1):
            delta.requires_grad_(step < threat.steps)
            with torch.set_grad_enabled(step < threat.steps):
                out = logits(point + delta)
                loss = cross_entropy(out, labels, reduction="none")
            with torch.no_grad():
                # A wrong label outranks any loss, so a success is never traded for a higher loss.
                score = loss + 1e6 * (out.argmax(dim=1) != labels)
                better = score > best_score
                best_score = torch.where(better, score, best_score)
                best[better] = delta.detach()[better]
            if step < threat.steps:
                (gradient,) = torch.autograd.grad(loss.sum(), delta)
                delta = threat.move(point, delta.detach(), gradient, mask)
    return point + best
