"""Our attacks beside Foolbox's and ART's, and what hardening gives: benchmarks/results/attacks.json.

    python benchmarks/bench_attacks.py [--seeds N]

Models: an MLP and a small CNN on scikit-learn's digits (8 x 8 pixels in [0, 1]), trained plainly, once for each seed.
Both sides attack the same 300 test images with the same radius, steps and restarts; robust accuracy is what is left,
lower is stronger. Then the example of the README, an MLP trained plainly and against PGD-7, under PGD-40.
"""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import digits as example
import foolbox
import numpy as np
import torch
from art.attacks.evasion import AutoProjectedGradientDescent, CarliniL2Method, ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn

from groundwire.export.attacks import Threat, apgd, carlini_wagner, fgsm, pgd, robust_at
from groundwire.export.machine import hardware

RESULTS = Path(__file__).parent / "results" / "attacks.json"
EPSILON = {"linf": 0.07, "l2": 0.5}
STEPS, RESTARTS, IMAGES = 20, 2, 300
CARLINI = {"steps": 50, "searches": 5, "rate": 0.02}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(144, 10),
    )  # fmt: skip


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int = 12) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(epochs):
        for part in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval().requires_grad_(False)


class Beside:
    """One model under each attack of each library."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, seed: int) -> None:
        self.model, self.x, self.y, self.seed = model, x, y, seed
        self.boxed = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        self.wrapped = PyTorchClassifier(
            model, nn.CrossEntropyLoss(), (1, 8, 8), 10, clip_values=(0.0, 1.0), device_type="cpu"
        )

    def left(self, find: Callable[[], Tensor]) -> float:
        """Accuracy on what an attack finds, in percent."""
        torch.manual_seed(self.seed)
        np.random.seed(self.seed)
        return 100 * float((self.model(find()).argmax(dim=1) == self.y).float().mean())

    def box(self, attack: Any, epsilon: float) -> float:
        torch.manual_seed(self.seed)
        return 100 * (1 - float(attack(self.boxed, self.x, self.y, epsilons=epsilon)[2].float().mean()))

    def art(self, attack: Any) -> float:
        return self.left(lambda: torch.from_numpy(attack.generate(self.x.numpy(), np.eye(10)[self.y.numpy()])))

    def gradient(self, norm: str) -> dict[str, dict[str, float]]:
        epsilon, p = EPSILON[norm], {"linf": np.inf, "l2": 2}[norm]
        one = Threat(epsilon, norm, STEPS, bounds=(0.0, 1.0))
        more = Threat(epsilon, norm, STEPS, restarts=RESTARTS, bounds=(0.0, 1.0))
        kinds = foolbox.attacks
        box_pgd = {"linf": kinds.LinfPGD, "l2": kinds.L2PGD}[norm](rel_stepsize=2.5 / STEPS, steps=STEPS)
        box_once = {"linf": kinds.LinfFastGradientAttack, "l2": kinds.L2FastGradientAttack}[norm]()
        art_pgd = ProjectedGradientDescent(
            self.wrapped, norm=p, eps=epsilon, eps_step=2.5 * epsilon / STEPS, max_iter=STEPS, num_random_init=1,
            batch_size=IMAGES, verbose=False,
        )  # fmt: skip
        found = {
            f"FGSM {norm}": {
                "ours": self.left(lambda: fgsm(self.model, self.x, self.y, epsilon, norm=norm, bounds=(0.0, 1.0))),
                "foolbox": self.box(box_once, epsilon),
            },
            f"PGD-{STEPS} {norm}": {
                "ours": self.left(lambda: pgd(self.model, self.x, self.y, one)),
                "foolbox": self.box(box_pgd, epsilon),
                "art": self.art(art_pgd),
            },
        }
        for loss, theirs in (("ce", "cross_entropy"), ("dlr", "difference_logits_ratio")):
            oracle = AutoProjectedGradientDescent(
                self.wrapped, norm=p, eps=epsilon, eps_step=2 * epsilon, max_iter=STEPS, nb_random_init=RESTARTS,
                batch_size=IMAGES, loss_type=theirs, verbose=False,
            )  # fmt: skip
            found[f"APGD-{STEPS} {loss} {norm}"] = {
                "ours": self.left(lambda loss=loss: apgd(self.model, self.x, self.y, more, loss=loss)),
                "art": self.art(oracle),
            }
        return found

    def carlini(self, epsilon: float) -> dict[str, float]:
        """Accuracy when only perturbations up to `epsilon` count."""
        steps, searches, rate = CARLINI["steps"], CARLINI["searches"], CARLINI["rate"]
        torch.manual_seed(self.seed)
        found = carlini_wagner(
            self.model, self.x, self.y, steps=steps, searches=searches, learning_rate=rate, confidence=0.0,
            bounds=(0.0, 1.0),
        )  # fmt: skip
        wrong = self.model(found).argmax(dim=1) != self.y
        boxed = foolbox.attacks.L2CarliniWagnerAttack(
            binary_search_steps=searches, steps=steps, stepsize=rate, confidence=0, initial_const=1e-2,
            abort_early=False,
        )  # fmt: skip
        oracle = CarliniL2Method(
            self.wrapped, confidence=0.0, learning_rate=rate, binary_search_steps=searches, max_iter=steps,
            initial_const=1e-2, batch_size=IMAGES, verbose=False,
        )  # fmt: skip
        theirs = torch.from_numpy(oracle.generate(self.x.numpy(), np.eye(10)[self.y.numpy()]))
        fooled = self.model(theirs).argmax(dim=1) != self.y
        return {
            "ours": 100 * float(robust_at(self.x, found, wrong, epsilon).float().mean()),
            "foolbox": self.box(boxed, epsilon),
            "art": 100 * float(robust_at(self.x, theirs, fooled, epsilon).float().mean()),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    train_x, test_x, train_y, test_y = example.digits()
    x, y = test_x[:IMAGES].reshape(-1, 1, 8, 8), test_y[:IMAGES]
    models: dict[str, Any] = {}
    for name, make in (("mlp", mlp), ("cnn", cnn)):
        rows: dict[str, dict[str, list[float]]] = {}
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            model = train(make(), train_x.reshape(-1, 1, 8, 8), train_y)
            beside = Beside(model, x, y, seed)
            found = {"clean": {"ours": beside.left(lambda: x)}}
            found |= beside.gradient("linf") | beside.gradient("l2")
            found |= {f"C&W l2 {epsilon}": beside.carlini(epsilon) for epsilon in (0.5, 0.7)}
            for attack, figures in found.items():
                for library, left in figures.items():
                    rows.setdefault(attack, {}).setdefault(library, []).append(round(left, 2))
        models[name] = {
            attack: {
                **figures,
                "worst_gap_points": round(
                    max((mine - min(theirs)) for mine, *theirs in zip(*figures.values(), strict=True)), 2
                ),
            }
            if len(figures) > 1
            else figures
            for attack, figures in rows.items()
        }
    hardening = {}
    for name, hardened in (("standard", False), ("adversarial", True)):
        runs = [example.train_and_attack(hardened, 30, seed) for seed in range(arguments.seeds)]
        hardening[name] = {
            "clean": [round(100 * clean, 2) for clean, _ in runs],
            "pgd_40": [round(100 * attacked, 2) for _, attacked in runs],
        }
    results = {
        "command": " ".join(["python", *sys.argv]), "hardware": hardware(), "seeds": arguments.seeds,
        "budget": {"images": IMAGES, "epsilon": EPSILON, "steps": STEPS, "apgd_restarts": RESTARTS, "carlini": CARLINI},
        "robust_accuracy_percent": models, "hardening_epsilon_0.1": hardening,
    }  # fmt: skip
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
