"""Harden a plain `nn.Module` on tensors: a two-layer MLP on scikit-learn's digits, against L∞ of a tenth of the range.

    python examples/digits.py [--epochs N] [--seed N]

Trains it twice, plainly and against PGD, and prints the accuracy of both without attack and under PGD-40.
"""

import argparse

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from groundwire.export.attacks import Threat, pgd
from groundwire.export.train import Adversary, Schedule, TensorBatches, TensorTask, fit

EPSILON = 0.1  # pixels lie in [0, 1]


def main() -> None:
    """Print one line for each way of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, hardened in (("standard", False), ("adversarial", True)):
        clean, attacked = train_and_attack(hardened, arguments.epochs, arguments.seed)
        print(f"{name:<12} clean {clean:.1%}   PGD-40, epsilon {EPSILON}: {attacked:.1%}")


def train_and_attack(hardened: bool, epochs: int, seed: int) -> tuple[float, float]:
    """Train a model; return its test accuracy without attack and under PGD-40."""
    torch.manual_seed(seed)
    train_x, test_x, train_y, test_y = digits()
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    adversary = Adversary(Threat(EPSILON, steps=7, bounds=(0.0, 1.0)), weight=0.9) if hardened else None
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-3)
    fit(TensorTask(model), TensorBatches(train_x, train_y, 64, seed), optimizer, Schedule(epochs), adversary=adversary)
    threat = Threat(EPSILON, steps=40, restarts=2, bounds=(0.0, 1.0))
    attacked = pgd(model, test_x, test_y, threat)
    with torch.no_grad():
        return accuracy(model(test_x), test_y), accuracy(model(attacked), test_y)


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training inputs, test inputs, training labels, test labels; pixels in [0, 1]."""
    data = load_digits()
    x = torch.tensor(data.data / 16.0, dtype=torch.float32)
    y = torch.tensor(data.target)
    parts = train_test_split(x.numpy(), y.numpy(), test_size=0.3, random_state=0, stratify=y.numpy())
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    return train_x, test_x, train_y, test_y


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of rows whose highest logit is the label's."""
    return float((logits.argmax(dim=1) == labels).float().mean())


if __name__ == "__main__":
    main()
