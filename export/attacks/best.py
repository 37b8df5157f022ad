"""The best perturbation of each example, over all steps and restarts of an attack. B examples, C labels."""

import torch
from torch import Tensor

# A wrong label outranks any loss, so a success is never traded for a higher loss.
_SUCCESS = 1e6


class Best:
    """Keeps, for each example, the perturbation with a wrong label, and among those (or if none) of highest loss.

    More steps or restarts from the same random numbers are thus never weaker. The first perturbation offered is always
    taken, also when its loss is not a number.
    """

    def __init__(self, point: Tensor) -> None:
        self.delta = torch.zeros_like(point)
        self.score = torch.full((len(point),), -torch.inf, device=point.device)

    @torch.no_grad()
    def offer(self, delta: Tensor, logits: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Look at perturbations [B, ...] with their logits [B, C] and losses [B]."""
        wrong = logits.argmax(dim=1) != labels
        score = torch.nan_to_num(loss.detach().float(), nan=-1e5).clamp(-1e5, 1e5) + _SUCCESS * wrong
        better = score > self.score
        self.score = torch.where(better, score, self.score)
        self.delta[better] = delta.detach()[better]

    @property
    def wrong(self) -> Tensor:
        """Where a perturbation with a wrong label was found. bool [B]"""
        return self.score > _SUCCESS / 2
