"""The stage of a build that trains, in one process or in several.

A build belongs to the main process: it reads the recipe's data, and exports, measures and writes the bundle. Other
processes that were launched with it wait for the encoded rows, train with it, and are done.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from groundwire.export.acceleration import accelerator_for, from_main
from groundwire.export.attacks import Threat
from groundwire.export.errors import StageError
from groundwire.export.model import TextClassifier, TextTask, encoder_hash, load_encoder, parameter_groups
from groundwire.export.prepare import Prepared
from groundwire.export.progress import console
from groundwire.export.rows import Row, TextBatches
from groundwire.export.settings import Recipe
from groundwire.export.train import Adversary, Checkpoint, History, Schedule, fit


@dataclass(frozen=True, slots=True)
class _Job:
    """What every process must know to train."""

    rows: Sequence[Row]
    changed: Sequence[Mapping[int, Row]]  # rows that differ in an epoch
    labels: int
    pad_id: int
    checkpoint: Path  # of the main process


def open_accelerator(recipe: Recipe) -> Accelerator:
    """The accelerator of a recipe, for the main process.

    Raises:
        StageError: its precision is not possible here, or this is another process than the main one.
    """
    accelerator = accelerator_for(recipe.train.mixed_precision)
    if not accelerator.is_main_process:
        raise StageError(
            "a bundle is built by the main process; call groundwire.export.train_stage.assist_training in the others."
        )
    return accelerator


def assist_training(recipe: Recipe) -> bool:
    """Train with the main process if this is another one, and return True; in the main process only return False.

    Raises:
        ExportError: the recipe's precision is not possible here, or training failed.
    """
    accelerator = accelerator_for(recipe.train.mixed_precision)
    if accelerator.is_main_process:
        return False
    job: _Job | None = from_main(accelerator, None)
    if job is not None:
        _fit(recipe, job, _new_model(recipe, job.labels), accelerator)
    accelerator.end_training()
    return True


def dismiss_assistants(accelerator: Accelerator) -> None:
    """Say that there is nothing to train."""
    from_main(accelerator, None)
    accelerator.end_training()


def open_work(work: Path, recipe: Recipe, prepared: Prepared) -> None:
    """Open the folder of work in progress; empty it when it is of another training, but never when it isn't ours."""
    digest = hashlib.sha256()
    encoder = replace(recipe.encoder, weights="")  # the number format is chosen after training
    versions = [version(package) for package in ("torch", "transformers")]
    content = encoder_hash(recipe.encoder_name)
    digest.update(
        json.dumps([recipe.seed, repr(encoder), content, versions, repr(recipe.train), prepared.labels]).encode()
    )
    for row in prepared.train:
        digest.update(json.dumps([row.ids, row.type_ids, row.label]).encode())
    for changed in prepared.changed:
        for place, row in sorted(changed.items()):
            digest.update(json.dumps([place, row.ids, row.type_ids, row.label]).encode())
    marker = work / "training"
    if work.exists() and not marker.exists() and any(work.iterdir()):
        raise StageError(f"{work} is where the build keeps its work, and holds something else: move that away.")
    if marker.exists() and marker.read_text() == digest.hexdigest():
        return
    if marker.exists():
        shutil.rmtree(work)
    work.mkdir(parents=True, exist_ok=True)
    marker.write_text(digest.hexdigest())


def train(recipe: Recipe, prepared: Prepared, work: Path, accelerator: Accelerator) -> TextClassifier:
    """Fine-tune the encoder, or load what an earlier run trained. The other processes are dismissed."""
    model = _new_model(recipe, len(prepared.labels))
    _check_length(model, recipe.encoder.max_tokens)
    weights = work / "trained.safetensors"
    if weights.exists():
        dismiss_assistants(accelerator)
        model.load_state_dict(load_file(weights))
        return model.eval()
    job = _Job(prepared.train, prepared.changed, len(prepared.labels), prepared.encoder.pad_id, work / "checkpoint.pt")
    history = _fit(recipe, from_main(accelerator, job), model, accelerator)
    accelerator.end_training()
    console.print(
        f"trained for {history.seconds:.0f} s; mean loss by epoch: clean {[round(x, 3) for x in history.clean_loss]}, "
        f"attacked {[round(x, 3) for x in history.adversarial_loss]}"
    )
    # In one step, so that a build that is interrupted here doesn't find half a file later.
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, work / "weights.new")
    (work / "weights.new").replace(weights)
    (work / "history.json").write_text(json.dumps({n: getattr(history, n) for n in type(history).__slots__}))
    return model


def _check_length(model: TextClassifier, tokens: int) -> None:
    """Refuse rows that are longer than the encoder reads, before it has been trained on shorter ones.

    Raises:
        StageError: it can't read so many tokens.
    """
    ids = torch.zeros((1, tokens), dtype=torch.long)
    try:
        with torch.inference_mode():
            model(model.word_embeddings(ids), torch.ones_like(ids), torch.zeros_like(ids))
    except (RuntimeError, IndexError) as error:
        most = getattr(model.encoder.config, "max_position_embeddings", None)
        has = f"; it has {most} positions" if most else ""
        raise StageError(f"the encoder can't read encoder.max_tokens of {tokens}{has}. Lower it.") from error


def _new_model(recipe: Recipe, labels: int) -> TextClassifier:
    torch.manual_seed(recipe.seed)
    return TextClassifier(load_encoder(recipe.encoder_name), labels, recipe.encoder.heads)


def _fit(recipe: Recipe, job: _Job, model: TextClassifier, accelerator: Accelerator) -> History:
    settings = recipe.train
    groups = parameter_groups(model, settings.learning_rate, settings.head_learning_rate, settings.weight_decay)
    batches = TextBatches(
        job.rows, settings.batch_size, job.pad_id, recipe.seed, changed=job.changed.__getitem__ if job.changed else None
    )
    hostile = settings.adversary
    adversary = None
    if hostile.epsilon > 0:
        threat = Threat(hostile.epsilon, hostile.norm, hostile.steps)
        adversary = Adversary(threat, hostile.weight, hostile.first_epoch, hostile.method)
    return fit(
        TextTask(model), batches, torch.optim.AdamW(groups), Schedule(settings.epochs, settings.warmup),
        adversary=adversary, checkpoint=Checkpoint(job.checkpoint), accelerator=accelerator,
    )  # fmt: skip
