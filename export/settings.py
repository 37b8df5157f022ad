"""A recipe: what to build, from what, and what must hold. Read from TOML; every key is checked.

Paths are relative to the recipe's folder. Keys left out have the defaults below.
"""

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from groundwire.bundle import NAME
from groundwire.export.attacks import NORMS
from groundwire.export.errors import RecipeError
from groundwire.export.objectives import OBJECTIVES

S = TypeVar("S")

WEIGHTS = ("float32", "float16", "int8")
MIXED_PRECISION = ("no", "bf16", "fp16")
NORMALISE = ("none", "fold", "spell")


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Files of examples. Without `calibration`, a share of `test`, chosen by entity, is set aside for it."""

    train: str
    test: str
    calibration: str = ""
    calibration_share: float = 0.5
    train_limit: int = 0  # most training examples, the first ones; 0 for all


@dataclass(frozen=True, slots=True)
class GraphSettings:
    """The knowledge graph: RDF files, or one compiled folder; none for a model of the text alone."""

    sources: tuple[str, ...] = ()
    top_k: int = 16  # most triples retrieved for a text
    train_entities: str = "gold"  # "gold": those that the data names; "linked": those that linking finds
    test_entities: str = "gold"


@dataclass(frozen=True, slots=True)
class EncoderSettings:
    """The encoder: a Hugging Face name, a folder, or `package:NAME` for a package that carries one."""

    name: str
    max_tokens: int = 128
    heads: int = 5
    weights: str = "int8"  # number format of the served encoder: "float16" is for GPUs
    normalise: str = "none"  # of texts before the tokenizer: "fold" look-alike letters, "spell": slips too


@dataclass(frozen=True, slots=True)
class AdversarySettings:
    """Adversarial training on word embeddings. `epsilon` 0 trains plainly; it is in units of the embeddings.

    `method`: "pgd", "trades" or "freelb"; see `groundwire.export.objectives`.
    """

    method: str = "pgd"
    epsilon: float = 0.0
    norm: str = "linf"
    steps: int = 1
    weight: float = 0.5  # share of the adversarial loss
    first_epoch: float = 0.0  # epochs, or a part of one, before it train plainly


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """Shares of the training rows that are changed, anew in each epoch; see `groundwire.export.augment`."""

    edit: float = 0.0  # words of the text misspelt, or exchanged for others of the same meaning
    poison: float = 0.0  # a false triple added to the evidence, or put in the place of a true one
    unknown: float = 0.0  # all evidence taken away and the label made `neutral_label`
    neutral_label: str = ""  # the label for what can't be decided, such as "not_enough_info"


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Fine-tuning."""

    epochs: int = 2
    batch_size: int = 32
    learning_rate: float = 8e-5
    head_learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.06  # share of the steps
    mixed_precision: str = "no"  # "bf16" or "fp16": precision of the encoder's passes; weights stay in float32
    evidence_dropout: float = 0.1  # share of the rows that are read without evidence
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    adversary: AdversarySettings = field(default_factory=AdversarySettings)


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """When to accept a label; see `groundwire.v1.DecisionPolicy`."""

    coverage: float = 0.9
    method: str = "lac"  # "lac", "aps" or "raps"
    max_distance_quantile: float = 0.995
    require_grounding: bool = True


@dataclass(frozen=True, slots=True)
class CertifySettings:
    """What the certificate measures. The first ε is the one of the robust margin."""

    epsilons: tuple[float, ...] = (0.002,)
    norm: str = "linf"
    steps: int = 10
    examples: int = 256  # test examples attacked; as many calibration examples for the robust margin
    robust_share: float = 0.95  # share of the labels that must stand at the robust margin
    coverages: tuple[float, ...] = (0.8, 0.9, 0.95)
    report: int = 0  # test examples of the robustness report, which takes hundreds of passes for each; 0 leaves it out


@dataclass(frozen=True, slots=True)
class GateSettings:
    """What a stage may lose; a stage that loses more is refused."""

    onnx_difference: float = 1e-3  # head logits, ONNX FP32 against PyTorch
    weights_accuracy_loss: float = 0.02  # clean accuracy, served weights against FP32, on the calibration data


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe. `text` is the TOML that it was read from, `folder` where its paths start."""

    name: str
    data: DataSettings
    encoder: EncoderSettings
    graph: GraphSettings = field(default_factory=GraphSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    certify: CertifySettings = field(default_factory=CertifySettings)
    gates: GateSettings = field(default_factory=GateSettings)
    seed: int = 0
    text: str = ""
    folder: Path = field(default_factory=Path)

    @property
    def encoder_name(self) -> str:
        """The encoder's name, made absolute when it is a folder."""
        return str(self.path(self.encoder.name)) if self.path(self.encoder.name).is_dir() else self.encoder.name

    def path(self, name: str) -> Path:
        """A path of the recipe, made absolute."""
        return (self.folder / name).resolve()


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe.

    Raises:
        RecipeError: the file can't be read, is not TOML, lacks a key, has an unknown one, or a value that can't be.
    """
    try:
        text = path.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} can't be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {path} is not TOML: {error}") from error
    for reserved in ("text", "folder"):
        if reserved in table:
            raise RecipeError(f"{path}: unknown key {reserved!r}.")
    return recipe_from_table(table, text, path.parent.resolve(), str(path))


def recipe_from_table(table: dict[str, Any], text: str, folder: Path, where: str) -> Recipe:
    """Make a recipe from the table that TOML gives; errors as in `read_recipe`."""
    recipe = dataclasses.replace(_build(Recipe, table, where, ""), text=text, folder=folder)
    data, train, certify = recipe.data, recipe.train, recipe.certify
    gates, adversary = recipe.gates, train.adversary
    checks = [
        (
            NAME.fullmatch(recipe.name) is not None,
            "name must be 1 to 128 of A-Z a-z 0-9 . _ -, as it is the model's",
        ),
        (0 <= recipe.seed < 1 << 31, "seed must be 0 or more, and below 2^31"),
        (data.train_limit >= 0, "data.train_limit must be 0 or more"),
        (data.train not in (data.calibration, data.test), "data.train must be a file of its own"),
        (
            data.calibration != data.test,
            "data.calibration must be a file of its own; leave it away, and a share of data.test is set aside",
        ),
        (
            train.learning_rate > 0 and train.head_learning_rate > 0 and train.weight_decay >= 0,
            "train.learning_rate and .head_learning_rate must be above 0, .weight_decay 0 or more",
        ),
        (0 <= train.warmup < 1, "train.warmup must be 0 or more and below 1"),
        (
            adversary.epsilon == 0 or 0 <= adversary.first_epoch < train.epochs,
            "train.adversary.first_epoch must be 0 or more, and below train.epochs: else nothing is hardened",
        ),
        (0 < certify.robust_share < 1, "certify.robust_share must lie between 0 and 1"),
        (
            gates.onnx_difference > 0 and 0 <= gates.weights_accuracy_loss <= 1,
            "gates.onnx_difference must be above 0, and gates.weights_accuracy_loss 0 to 1",
        ),
        (0 < data.calibration_share < 1, "data.calibration_share must lie between 0 and 1"),
        (0 <= recipe.graph.top_k <= 256, "graph.top_k must be 0 to 256"),
        (recipe.graph.train_entities in {"gold", "linked"}, "graph.train_entities must be 'gold' or 'linked'"),
        (recipe.graph.test_entities in {"gold", "linked"}, "graph.test_entities must be 'gold' or 'linked'"),
        (8 <= recipe.encoder.max_tokens <= 8192, "encoder.max_tokens must be 8 to 8192"),
        (recipe.encoder.weights in WEIGHTS, f"encoder.weights must be one of {', '.join(WEIGHTS)}"),
        (recipe.encoder.heads >= 1, "encoder.heads must be 1 or more"),
        (recipe.encoder.normalise in NORMALISE, f"encoder.normalise must be one of {', '.join(NORMALISE)}"),
        (train.epochs >= 1 and train.batch_size >= 1, "train.epochs and train.batch_size must be 1 or more"),
        (
            train.mixed_precision in MIXED_PRECISION,
            f"train.mixed_precision must be one of {', '.join(MIXED_PRECISION)}",
        ),
        (0 <= train.evidence_dropout < 1, "train.evidence_dropout must be 0 or more and below 1"),
        (
            all(0 <= share <= 1 for share in (train.augment.edit, train.augment.poison, train.augment.unknown)),
            "train.augment.edit, .poison and .unknown must lie between 0 and 1",
        ),
        (
            not train.augment.unknown or bool(train.augment.neutral_label),
            "train.augment.unknown needs train.augment.neutral_label: what a text without evidence is to be called",
        ),
        (
            not train.augment.unknown or bool(recipe.graph.sources and recipe.graph.top_k),
            "train.augment.unknown needs a graph: without evidence the rows would differ in nothing but their label",
        ),
        (train.adversary.method in OBJECTIVES, f"train.adversary.method must be one of {', '.join(OBJECTIVES)}"),
        (
            train.adversary.method != "trades" or train.adversary.weight < 1,
            "train.adversary.weight must be below 1 for trades: without the clean loss nothing tells the labels",
        ),
        (train.adversary.norm in NORMS, f"train.adversary.norm must be one of {', '.join(NORMS)}"),
        (0 < train.adversary.weight <= 1, "train.adversary.weight must be above 0 and at most 1"),
        (train.adversary.epsilon >= 0 and train.adversary.steps >= 1, "train.adversary needs epsilon >= 0, steps >= 1"),
        (0 < recipe.policy.coverage < 1, "policy.coverage must lie between 0 and 1"),
        (recipe.policy.method in {"lac", "aps", "raps"}, "policy.method must be 'lac', 'aps' or 'raps'"),
        (0 < recipe.policy.max_distance_quantile <= 1, "policy.max_distance_quantile must be above 0 and at most 1"),
        (bool(certify.epsilons) and all(e > 0 for e in certify.epsilons), "certify.epsilons must be numbers above 0"),
        (certify.norm in NORMS, f"certify.norm must be one of {', '.join(NORMS)}"),
        (certify.steps >= 1 and certify.examples >= 1, "certify.steps and certify.examples must be 1 or more"),
        (certify.report >= 0, "certify.report must be 0 or more"),
        (all(0 < c < 1 for c in certify.coverages), "certify.coverages must lie between 0 and 1"),
    ]
    for holds, message in checks:
        if not holds:
            raise RecipeError(f"{where}: {message}.")
    return recipe


def _build(kind: type[S], table: Any, where: str, prefix: str) -> S:
    """Make a dataclass from a TOML table, key by key."""
    if not isinstance(table, dict):
        raise RecipeError(f"{where}: {prefix.rstrip('.')} must be a table.")
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise RecipeError(f"{where}: unknown key {prefix}{key}; known here: {', '.join(fields)}.")
        values[key] = _value(hints[key], value, where, prefix + key)
    for name, f in fields.items():
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise RecipeError(f"{where}: {prefix}{name} is missing.")
    return kind(**values)


def _value(hint: Any, value: Any, where: str, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where, f"{key}.")  # type: ignore[arg-type]
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not math.isfinite(value):
        raise RecipeError(f"{where}: {key} must be a finite number.")
    if hint is float and number:
        return float(value)
    if hint == tuple[str, ...] and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if hint == tuple[float, ...] and isinstance(value, list):
        return tuple(_value(float, one, where, key) for one in value)
    if hint in {int, str, bool} and type(value) is hint:
        return value
    expected = {float: "a number", int: "a whole number", str: "a string", bool: "true or false"}.get(hint, "a list")
    raise RecipeError(f"{where}: {key} must be {expected}.")
