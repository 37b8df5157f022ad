"""Attacks: on the point of any differentiable classifier, and black-box ones on texts and their evidence."""

from groundwire.export.attacks.apgd import apgd
from groundwire.export.attacks.carlini_wagner import carlini_wagner, robust_at
from groundwire.export.attacks.pgd import fgsm, pgd
from groundwire.export.attacks.threat import L2, NORMS, Linf, Logits, Norm, Threat

__all__ = ["L2", "NORMS", "Linf", "Logits", "Norm", "Threat", "apgd", "carlini_wagner", "fgsm", "pgd", "robust_at"]
