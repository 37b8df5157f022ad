"""What adversarial training minimises: PGD's min-max, TRADES, and FreeLB, for anything that has a point to perturb.

Each function accumulates the parameter gradients of one batch. In all three the clean pass gives the parameters their
clean gradient and the attack its first direction where it can, in the spirit of "free" adversarial training (Shafahi
et al. 2019). With k ascent steps a batch costs k + 1 passes with PGD or FreeLB, k + 2 with TRADES; plain training, 1.

B examples, C labels; w is the weight of the adversarial loss.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from groundwire.export.attacks import Threat

B = TypeVar("B")
B_contra = TypeVar("B_contra", contravariant=True)


class Task(Protocol[B_contra]):
    """A model with its loss, seen from a point that may be perturbed.

    Points are [B, ...], outputs logits [B, C] or of K heads [B, K, C], losses scalar.
    """

    forward: nn.Module  # what a pass goes through: the model, or while it is trained what is prepared of it

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    def point(self, batch: B_contra) -> Tensor:
        """What an attack moves."""

    def mask(self, batch: B_contra) -> Tensor | None:
        """0 where nothing may change; None when all may."""

    def logits(self, point: Tensor, batch: B_contra) -> Tensor:
        """Logits at a point, [B, C]."""

    def outputs(self, point: Tensor, batch: B_contra) -> Tensor:
        """Logits at a point as they are trained: of each head, if there are several."""

    def loss_of(self, outputs: Tensor, batch: B_contra) -> Tensor:
        """Mean loss of outputs."""

    def loss(self, point: Tensor, batch: B_contra) -> Tensor:
        """Mean loss at a point."""


class Gradients(Protocol):
    """Who takes gradients: torch alone (`PLAIN`), or Accelerate with its devices and loss scaling (`acceleration`).

    Those of points are directions: right up to a factor above 0, which the steps of every norm leave out.
    """

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradients of the parameters, and of points that ask for theirs."""

    def of_point(self, loss: Tensor, point: Tensor) -> Tensor:
        """Direction uphill for a point; the gradients of the parameters stay as they are."""

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient that `backward` left on a point, as a direction."""

    def not_yet_shared(self) -> AbstractContextManager[None]:
        """Around all passes of a batch but the last, so that processes exchange their gradients once."""


class PlainGradients:
    """Gradients by torch, in one process."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def of_point(self, loss: Tensor, point: Tensor) -> Tensor:
        """Gradient of a point alone."""
        return torch.autograd.grad(loss, point)[0]

    def direction(self, gradient: Tensor) -> Tensor:
        """The gradient itself."""
        return gradient

    def not_yet_shared(self) -> AbstractContextManager[None]:
        """There is nobody to share with."""
        return nullcontext()


PLAIN = PlainGradients()


def standard_backward(task: Task[B], batch: B, gradients: Gradients = PLAIN) -> float:
    """The loss as it is. Returns it."""
    loss = task.loss(task.point(batch), batch)
    gradients.backward(loss)
    return float(loss.detach())


def adversarial_backward(
    task: Task[B], batch: B, threat: Threat, weight: float, gradients: Gradients = PLAIN
) -> tuple[float, float]:
    """PGD (Madry et al. 2018) with the clean loss mixed in: (1 - w) · loss(x) + w · max over ‖δ‖ ≤ ε of loss(x + δ).

    Returns (clean loss, adversarial loss).
    """
    point, mask = task.point(batch).detach(), task.mask(batch)
    with gradients.not_yet_shared():
        clean, moved = _clean_pass(task, batch, threat, weight, gradients)
        for _ in range(threat.steps - 1):
            moved = _ascend(lambda at: task.loss(at, batch), point, moved, threat, mask, gradients)
    adversarial = task.loss(task.point(batch) + moved, batch)
    gradients.backward(weight * adversarial)
    return clean, float(adversarial.detach())


def freelb_backward(
    task: Task[B], batch: B, threat: Threat, weight: float, gradients: Gradients = PLAIN
) -> tuple[float, float]:
    """FreeLB (Zhu et al. 2020): the loss at every step of the ascent counts, each with a share of w / k.

        (1 - w) · loss(x) + w / k · sum over t = 1 … k of loss(x + δ_t)

    The paper starts at random and has no clean term; here the clean pass is the start, so it costs nothing more.
    Returns (clean loss, mean adversarial loss).
    """
    point, mask = task.point(batch).detach(), task.mask(batch)
    with gradients.not_yet_shared():
        clean, moved = _clean_pass(task, batch, threat, weight, gradients)
    total = 0.0
    for step in range(threat.steps):
        last = step == threat.steps - 1
        delta = moved.requires_grad_(True)
        with nullcontext() if last else gradients.not_yet_shared():
            adversarial = task.loss(task.point(batch) + delta, batch)
            gradients.backward(weight / threat.steps * adversarial)
        total += float(adversarial.detach()) / threat.steps
        if not last:
            assert delta.grad is not None
            with torch.no_grad():
                moved = threat.move(point, delta.detach(), gradients.direction(delta.grad), mask)
    return clean, total


def trades_backward(
    task: Task[B], batch: B, threat: Threat, weight: float, gradients: Gradients = PLAIN
) -> tuple[float, float]:
    """TRADES (Zhang et al. 2019): (1 - w) · loss(x) + w · max over ‖δ‖ ≤ ε of KL(p(x) ‖ p(x + δ)).

    The paper's β is w / (1 - w), so w = 6 / 7 is its β = 6. The ascent starts at a random perturbation, because the
    gradient of the divergence is zero at the point itself. Returns (clean loss, divergence in nats).

    Raises:
        ValueError: w is 1, which leaves nothing that says what the labels are.
    """
    if weight >= 1.0:
        raise ValueError("TRADES needs a weight below 1: without the clean loss nothing tells the labels")
    start, mask = task.point(batch), task.mask(batch)
    point = start.detach()
    with gradients.not_yet_shared():
        outputs = task.outputs(start, batch)
        clean = task.loss_of(outputs, batch)
        fixed = log_softmax(outputs.detach(), dim=-1)
        with torch.no_grad():
            moved = threat.start(point, mask)
        for _ in range(threat.steps):
            moved = _ascend(
                lambda at: _divergence(fixed, task.outputs(at, batch)), point, moved, threat, mask, gradients
            )
    hard = _divergence(log_softmax(outputs, dim=-1), task.outputs(task.point(batch) + moved, batch))
    gradients.backward((1.0 - weight) * clean + weight * hard)
    return float(clean.detach()), float(hard.detach())


Objective = Callable[[Task[Any], Any, Threat, float, Gradients], tuple[float, float]]
OBJECTIVES: dict[str, Objective] = {
    "pgd": adversarial_backward,
    "trades": trades_backward,
    "freelb": freelb_backward,
}


def _clean_pass(task: Task[B], batch: B, threat: Threat, weight: float, gradients: Gradients) -> tuple[float, Tensor]:
    """Accumulate the clean gradient with weight 1 - w; return the clean loss and the first ascent step."""
    point = task.point(batch)
    delta = torch.zeros_like(point, requires_grad=True)
    clean = task.loss(point + delta, batch)
    if weight < 1.0:
        # One pass back gives the parameters their clean gradient and the attack its first direction.
        gradients.backward((1.0 - weight) * clean)
        assert delta.grad is not None
        gradient = gradients.direction(delta.grad)
    else:
        gradient = gradients.of_point(clean, delta)
    with torch.no_grad():
        moved = threat.move(point.detach(), delta.detach(), gradient, task.mask(batch))
    return float(clean.detach()), moved


def _ascend(
    loss: Callable[[Tensor], Tensor],
    point: Tensor,
    delta: Tensor,
    threat: Threat,
    mask: Tensor | None,
    gradients: Gradients,
) -> Tensor:
    """One step uphill from `delta`, which leaves the parameters' gradients alone."""
    delta = delta.detach().requires_grad_(True)
    gradient = gradients.of_point(loss(point + delta), delta)
    with torch.no_grad():
        return threat.move(point, delta.detach(), gradient, mask)


def _divergence(clean: Tensor, outputs: Tensor) -> Tensor:
    """KL(p ‖ q) in nats, mean over examples and heads: log p [B, …, C], logits of q [B, …, C]."""
    q = log_softmax(outputs, dim=-1)
    return kl_div(q.flatten(0, -2), clean.flatten(0, -2), log_target=True, reduction="batchmean")
