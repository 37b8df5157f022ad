"""What an attacker may do: norms, and the threat model. B examples; points are [B, ...]."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

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

    def length(self, delta: Tensor) -> Tensor:
        """Norm of each perturbation. [B, ...] -> [B]"""


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

    def length(self, delta: Tensor) -> Tensor:
        """Largest absolute coordinate."""
        return delta.flatten(1).abs().amax(dim=1)


class L2:
    """Euclidean length over all coordinates of an example."""

    name = "l2"

    def step(self, gradient: Tensor) -> Tensor:
        """Gradient scaled to length 1; one of zeros stays so.

        Divided by its largest coordinate first: the squares of a gradient that a large temperature shrank would be
        zero in float32, and a rescaled model would look robust.
        """
        largest = gradient.flatten(1).abs().amax(dim=1).view(-1, *[1] * (gradient.dim() - 1))
        unit = torch.where(largest > 0, gradient / torch.where(largest > 0, largest, 1.0), 0.0)
        return unit / self._length(unit).clamp_min(1e-12)

    def project(self, delta: Tensor, epsilon: float) -> Tensor:
        """Shorten what is too long."""
        return delta * (epsilon / self._length(delta).clamp_min(1e-12)).clamp_max(1.0)

    def sample(self, like: Tensor, epsilon: float) -> Tensor:
        """Uniform in the ball: a direction, and a radius by the power of the dimension."""
        direction = self.step(torch.randn_like(like))
        radius = torch.rand(len(like), device=like.device) ** (1.0 / like[0].numel())
        return epsilon * direction * radius.view(-1, *[1] * (like.dim() - 1))

    def length(self, delta: Tensor) -> Tensor:
        """Root of the sum of squares."""
        lengths: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return lengths

    def _length(self, x: Tensor) -> Tensor:
        return self.length(x).view(-1, *[1] * (x.dim() - 1))


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
