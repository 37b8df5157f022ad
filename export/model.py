"""The text classifier: one encoder, K small heads, and the word embeddings as the point that attacks move.

B rows, T tokens, H hidden size, K heads, C labels.
"""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModel
from transformers.utils import logging as transformers_logging

from groundwire.export.errors import EncoderError
from groundwire.export.rows import TextBatch


class TextClassifier(nn.Module):
    """A Hugging Face encoder, mean pooling, and an ensemble of two-layer heads.

    The word embeddings are frozen: an attack's ε is in their units, and a model that could scale them up would look
    robust without being so.
    """

    def __init__(self, encoder: nn.Module, num_labels: int, num_heads: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        hidden = int(encoder.config.hidden_size)  # type: ignore[arg-type, union-attr]
        self.heads = Heads(hidden, num_labels, num_heads, dropout)
        self.word_embeddings.weight.requires_grad_(False)

    @property
    def word_embeddings(self) -> nn.Embedding:
        """The table of word embeddings, [V, H]."""
        table: nn.Embedding = self.encoder.get_input_embeddings()  # type: ignore[operator]
        return table

    def features(self, embeddings: Tensor, mask: Tensor, types: Tensor) -> Tensor:
        """Word embeddings [B, T, H], mask and types [B, T] -> pooled features [B, H]: the mean over unmasked tokens."""
        inputs: dict[str, Any] = {"inputs_embeds": embeddings, "attention_mask": mask}
        if getattr(self.encoder.config, "type_vocab_size", 0) > 1:
            inputs["token_type_ids"] = types
        states: Tensor = self.encoder(**inputs).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp_min(1.0)

    def forward(self, embeddings: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """Word embeddings [B, T, H], mask and types [B, T] -> head logits [B, K, C], pooled features [B, H]."""
        pooled = self.features(embeddings, mask, types)
        return self.heads(pooled), pooled


class Heads(nn.Module):
    """K two-layer heads side by side. [B, H] -> [B, K, C]."""

    def __init__(self, hidden: int, num_labels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        # Different starting points make an ensemble (Lakshminarayanan et al. 2017).
        self.inner = nn.Linear(hidden, num_heads * hidden)
        self.outer = nn.Parameter(torch.randn(num_heads, hidden, num_labels) * hidden**-0.5)
        self.bias = nn.Parameter(torch.zeros(num_heads, 1, num_labels))
        self.dropout = nn.Dropout(dropout)
        self.num_heads = num_heads

    def forward(self, pooled: Tensor) -> Tensor:
        """Pooled features [B, H] -> logits [B, K, C]."""
        rows = pooled.shape[0]
        inner = torch.tanh(self.inner(pooled)).view(rows, self.num_heads, -1)
        # [K, B, H] @ [K, H, C] -> [K, B, C]
        return (torch.matmul(self.dropout(inner).transpose(0, 1), self.outer) + self.bias).transpose(0, 1)


class TextTask:
    """A `TextClassifier` as `groundwire.export.train.fit` and the attacks see it."""

    def __init__(self, model: TextClassifier) -> None:
        self.model = model
        self.forward: nn.Module = model

    def point(self, batch: TextBatch) -> Tensor:
        """Word embeddings of a batch, [B, T, H]."""
        embeddings: Tensor = self.model.word_embeddings(batch.ids)
        return embeddings

    def mask(self, batch: TextBatch) -> Tensor:
        """1 where a perturbation may go, [B, T, 1]: every token that isn't padding."""
        return batch.mask.unsqueeze(-1).to(self.model.word_embeddings.weight.dtype)

    def logits(self, point: Tensor, batch: TextBatch) -> Tensor:
        """Mean of the heads' logits, [B, C]."""
        head_logits: Tensor = self.forward(point, batch.mask, batch.types)[0]
        return head_logits.mean(dim=1)

    def outputs(self, point: Tensor, batch: TextBatch) -> Tensor:
        """Logits of each head, [B, K, C]."""
        head_logits: Tensor = self.forward(point, batch.mask, batch.types)[0]
        return head_logits

    def loss_of(self, outputs: Tensor, batch: TextBatch) -> Tensor:
        """Mean cross-entropy of the heads, each on its own: an ensemble is trained member by member."""
        rows, heads, _ = outputs.shape
        return cross_entropy(outputs.reshape(rows * heads, -1), batch.labels.repeat_interleave(heads))

    def loss(self, point: Tensor, batch: TextBatch) -> Tensor:
        """Mean loss at a point."""
        return self.loss_of(self.outputs(point, batch), batch)


def resolve_encoder(name: str) -> Path | str:
    """Where an encoder's files are.

    `name` is a folder, `package:NAME` for an installed package that carries a model (a `config.json` beside its
    weights), or a Hugging Face name.

    Raises:
        EncoderError: the folder or package holds no model.
    """
    if name.startswith("package:"):
        package = name.removeprefix("package:")
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise EncoderError(f"encoder {name!r}: package {package} is not installed; install it with pip.")
        for folder in spec.submodule_search_locations:
            found = sorted(Path(folder).rglob("config.json"), key=lambda p: (len(p.parts), p))
            for config in found:
                if (config.parent / "model.safetensors").exists():
                    return config.parent
        raise EncoderError(f"encoder {name!r}: package {package} holds no config.json with model.safetensors.")
    folder_path = Path(name)
    if folder_path.is_dir():
        return folder_path
    if name.startswith((".", "/")):
        raise EncoderError(f"encoder {name!r}: no such folder.")
    return name


def encoder_hash(name: str) -> str:
    """SHA-256 over the files that an encoder is loaded from, hexadecimal; of a Hugging Face name its commit.

    Raises:
        EncoderError: there is no such encoder.
    """
    where = resolve_encoder(name)
    if isinstance(where, str):
        try:
            return str(AutoConfig.from_pretrained(where)._commit_hash)
        except (OSError, ValueError) as error:
            raise EncoderError(f"encoder {name!r} can't be loaded: {error}") from error
    digest = hashlib.sha256()
    for path in sorted(where.iterdir()):
        if path.suffix in {".json", ".safetensors", ".bin", ".txt", ".model"}:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def load_encoder(name: str, *, attention: str = "sdpa") -> nn.Module:
    """Load a Hugging Face encoder in float32, with its own dropout switched off.

    Dropout costs a third of the training time on a CPU; the heads keep theirs, and the adversary regularises the rest.

    Raises:
        EncoderError: there is no such encoder, or it can't be loaded.
    """
    where = resolve_encoder(name)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # a bar for loading, half a second long, hides ours
    try:
        config = AutoConfig.from_pretrained(where)
        for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"):
            if hasattr(config, key):
                setattr(config, key, 0.0)
        encoder: nn.Module = AutoModel.from_pretrained(
            where, config=config, attn_implementation=attention, dtype=torch.float32
        )
    except (OSError, ValueError) as error:
        raise EncoderError(f"encoder {name!r} can't be loaded: {error}") from error
    return encoder


def load_tokenizer_json(name: str) -> bytes:
    """Content of the encoder's `tokenizer.json`.

    Raises:
        EncoderError: the encoder has none.
    """
    where = resolve_encoder(name)
    if isinstance(where, str):
        from huggingface_hub import hf_hub_download  # noqa: PLC0415  # only for names of the hub

        try:
            where = Path(hf_hub_download(where, "tokenizer.json")).parent
        except OSError as error:
            raise EncoderError(f"encoder {name!r}: its tokenizer.json can't be fetched: {error}") from error
    try:
        return (where / "tokenizer.json").read_bytes()
    except OSError as error:
        raise EncoderError(f"encoder {name!r} has no tokenizer.json; save its fast tokenizer there.") from error


def parameter_groups(
    model: TextClassifier, learning_rate: float, head_learning_rate: float, weight_decay: float
) -> Sequence[dict[str, Any]]:
    """Groups for an optimizer: encoder and heads at their own rates; no decay on biases and normalisation."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            rate = head_learning_rate if name.startswith("heads.") else learning_rate
            decay = weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]
