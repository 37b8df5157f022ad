"""What an attack climbs: losses of logits [B, C] against labels [B], one value an example, higher for worse."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

Loss = Callable[[Tensor, Tensor], Tensor]


def ce(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, nats. Its gradient vanishes when the logits are large."""
    return cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Highest logit of another label minus the logit of the true one: above 0 means fooled (Carlini & Wagner 2017)."""
    true = logits.gather(1, labels.unsqueeze(1)).squeeze(1)
    others = logits.scatter(1, labels.unsqueeze(1), -torch.inf)
    return others.amax(dim=1) - true


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): the margin over the gap of first and third logit.

    Shifting or rescaling the logits changes nothing.

    Raises:
        ValueError: fewer than three labels; with two the ratio is constant.
    """
    if logits.shape[1] < 3:
        raise ValueError("the DLR loss needs three labels or more; use the cross-entropy")
    top = logits.topk(3, dim=1).values
    gap = top[:, 0] - top[:, 2]
    return margin(logits, labels) / torch.where(gap > 0, gap, 1.0)


LOSSES: dict[str, Loss] = {"ce": ce, "dlr": dlr}
