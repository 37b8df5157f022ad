"""Is the model robust, or does it hide from the attack? The checks of Carlini et al. 2019 (arXiv 1902.06705).

An attack that fails may say more about the attack than about the model. Each check compares attacks that an honest
model must order in a known way; a model with masked gradients gets the order wrong. Robust accuracy is to be believed
only when all pass. B examples, C labels.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from groundwire.export.attacks.losses import ce
from groundwire.export.attacks.pgd import fgsm, pgd
from groundwire.export.attacks.search import noise, random_search
from groundwire.export.attacks.threat import Logits, Threat

# Temperatures of the sweep, in units of the logits' own spread.
TEMPERATURES = (0.01, 0.1, 1.0, 10.0, 100.0)
# A temperature also changes which label the cross-entropy runs to, which moves honest models by a few points; models
# that hide behind their scale, by tens.
SWEEP_TOLERANCE = 0.05
# Radii tried where the points have no bounds, in units of ε.
LARGE = (10.0, 100.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Check:
    """A check: its name, whether it passed, the accuracies that say so, and what it asks for.

    `numbers` are shares in [0, 1] by what was done, such as {"PGD-10": 0.41, "PGD-40": 0.40}.
    """

    name: str
    passed: bool
    numbers: Mapping[str, float]
    asks: str


def masking_checks(
    logits: Logits,
    point: Tensor,
    labels: Tensor,
    threat: Threat,
    *,
    mask: Tensor | None = None,
    surrogate: Logits | None = None,
    queries: int = 200,
    tolerance: float = 0.01,
    seed: int = 0,
) -> list[Check]:
    """Run all checks around one threat.

    Args:
        logits: the model as it is attacked: logits before any temperature, in evaluation mode.
        point: [B, ...]; a few hundred examples make the checks sharp.
        labels: [B] true labels.
        threat: the threat whose robust accuracy is to be believed; `steps` is multiplied by 4 in the first check.
        mask: broadcastable to `point`; 0 where nothing may change.
        surrogate: another model of the same task, whose adversarial points are carried over; None leaves them out.
        queries: logits that the black-box attack reads for each example.
        tolerance: how far accuracies may lie out of order, as a share; at least one example is allowed.
        seed: of all random numbers; the global generator is left as it was.

    Returns:
        Eight checks, always in the same order.
    """
    with torch.random.fork_rng(devices=[]):
        return _Checks(logits, point.detach(), labels, threat, mask, tolerance, seed).run(surrogate, queries)


@dataclass(frozen=True)
class _Checks:
    logits: Logits
    point: Tensor
    labels: Tensor
    threat: Threat
    mask: Tensor | None
    tolerance: float
    seed: int

    def run(self, surrogate: Logits | None, queries: int) -> list[Check]:
        base = self.attacked(self.threat)
        clean = self.accuracy(self.point)
        return [
            self.steps(base),
            self.restarts(base),
            self.iterative(base),
            self.black_box(base, surrogate, queries),
            self.large(clean, base),
            self.noise(clean, base),
            self.temperatures(base),
            self.gradients(),
        ]

    def steps(self, base: float) -> Check:
        """Each with the step length that suits its number of steps, so the longer run does not hold the shorter."""
        counts = (self.threat.steps, 2 * self.threat.steps, 4 * self.threat.steps)
        values = [base, *(self.attacked(replace(self.threat, steps=n, step_size=None)) for n in counts[1:])]
        numbers = {f"PGD-{n}": value for n, value in zip(counts, values, strict=True)}
        return Check("more steps are not weaker", self.falls(values), numbers, "accuracy does not rise with steps")

    def restarts(self, base: float) -> Check:
        counts = (self.threat.restarts, 2 * self.threat.restarts, 5 * self.threat.restarts)
        again = [self.attacked(replace(self.threat, restarts=n, random_start=True)) for n in counts[1:]]
        numbers = {f"{n} restarts": value for n, value in zip(counts, [base, *again], strict=True)}
        return Check(
            "more restarts are not weaker", self.falls([base, *again]), numbers, "accuracy does not rise with restarts"
        )

    def iterative(self, base: float) -> Check:
        once = self.threat
        single = self.accuracy(
            fgsm(self.logits, self.point, self.labels, once.epsilon, norm=once.norm, bounds=once.bounds, mask=self.mask)
        )
        numbers = {"FGSM": single, f"PGD-{once.steps}": base}
        return Check(
            "iterative at least as strong as one step", self.falls([single, base]), numbers, "PGD at or below FGSM"
        )

    def black_box(self, base: float, surrogate: Logits | None, queries: int) -> Check:
        searched = random_search(self.logits, self.point, self.labels, self.threat, queries, mask=self.mask)
        numbers = {f"random search, {queries} queries": self.accuracy(searched)}
        if surrogate is not None:
            numbers["transfer from the surrogate"] = self.attacked(self.threat, surrogate)
        weakest = min(numbers.values())
        return Check(
            "white-box at least as strong as black-box", self.falls([weakest, base]),
            numbers | {f"PGD-{self.threat.steps}": base}, "PGD at or below every attack that sees no gradient",
        )  # fmt: skip

    def large(self, clean: float, base: float) -> Check:
        """Accuracy falls with the radius and reaches zero: at the width of the bounds, or at 1000 ε without bounds."""
        bounds, epsilon = self.threat.bounds, self.threat.epsilon
        if bounds is None:
            radii = [factor * epsilon for factor in LARGE]
        else:
            whole = bounds[1] - bounds[0]
            if self.threat.norm == "l2":
                whole *= math.sqrt(self.point[0].numel())
            radii = [(epsilon + whole) / 2, whole]
        numbers = {"ε = 0": clean, f"ε = {epsilon:g}": base}
        for radius in radii:
            numbers[f"ε = {radius:g}"] = value = self.attacked(replace(self.threat, epsilon=radius, step_size=None))
            if value <= self.slack:  # further out the loss saturates, and its gradient is lost on honest models too
                break
        values = list(numbers.values())
        passed = self.falls(values) and values[-1] <= self.slack
        return Check("a large radius leaves nothing", passed, numbers, "accuracy falls with ε and reaches 0")

    def noise(self, clean: float, base: float) -> Check:
        draws = self.threat.restarts * (self.threat.steps + 1)
        drawn = self.accuracy(noise(self.logits, self.point, self.labels, self.threat, draws, mask=self.mask))
        numbers = {"clean": clean, f"noise, worst of {draws}": drawn, f"PGD-{self.threat.steps}": base}
        return Check(
            "random noise is weaker than the attack", self.falls([drawn, base]), numbers,
            "PGD at or below noise that reads as many logits",
        )  # fmt: skip

    def temperatures(self, base: float) -> Check:
        """Attack the logits divided by temperatures of their own size: none may beat the attack on the logits as given.

        Logits scaled up saturate the softmax, and the gradient of the cross-entropy is exactly 0; scaled down they
        make it uniform, and the gradient flees all other labels instead of going to the nearest (arXiv 2402.17509).
        """
        with torch.no_grad():
            out = self.logits(self.point)
            spread = float((out - out.mean(dim=1, keepdim=True)).abs().mean()) or 1.0
        numbers = {"as given": base}
        for factor in TEMPERATURES:
            temperature = factor * spread

            def scaled(point: Tensor, temperature: float = temperature) -> Tensor:
                return self.logits(point) / temperature

            numbers[f"temperature {factor:g} × spread"] = self.attacked(self.threat, scaled)
        strongest = min(numbers.values())
        return Check(
            "no temperature makes the attack stronger", base <= strongest + max(self.slack, SWEEP_TOLERANCE), numbers,
            "the attack on the logits as given at most 5 points above that at any temperature",
        )  # fmt: skip

    def gradients(self) -> Check:
        """Gradients that are exactly zero or no numbers lead nowhere: the attack then moves at random."""
        point = self.point.clone().requires_grad_(True)
        out = self.logits(point)
        if not out.requires_grad:
            dead = torch.ones(len(point), dtype=torch.bool)
        else:
            (gradient,) = torch.autograd.grad(ce(out, self.labels).sum(), point, allow_unused=True)
            flat = torch.zeros_like(point).flatten(1) if gradient is None else gradient.flatten(1)
            dead = ~flat.isfinite().all(dim=1) | (flat.abs().amax(dim=1) == 0)
        share = float(dead.float().mean())
        return Check(
            "gradients are there", share <= self.slack, {"examples without a gradient": share},
            "a finite gradient other than zero at nearly every example",
        )  # fmt: skip

    def attacked(self, threat: Threat, logits: Logits | None = None) -> float:
        """Every attack starts from the same random numbers, so that they differ in what is compared alone."""
        torch.manual_seed(self.seed)
        return self.accuracy(pgd(logits or self.logits, self.point, self.labels, threat, mask=self.mask))

    @torch.no_grad()
    def accuracy(self, point: Tensor) -> float:
        return float((self.logits(point).argmax(dim=1) == self.labels).float().mean())

    @property
    def slack(self) -> float:
        return max(self.tolerance, 1.0 / len(self.labels)) + 1e-9

    def falls(self, values: Sequence[float]) -> bool:
        """Whether no value lies above the one before it."""
        return all(later <= earlier + self.slack for earlier, later in pairwise(values))
