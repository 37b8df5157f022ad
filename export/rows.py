"""Rows for a text model: examples with their evidence, encoded once, batched by length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from groundwire.export.data import Example
from groundwire.export.progress import track
from groundwire.kg.encode import PairEncoder
from groundwire.kg.types import Evidence, Retriever

Entities = Literal["gold", "linked", "none"]


@dataclass(frozen=True, slots=True)
class Row:
    """One encoded example: token ids, token types, index of its label, position in the data."""

    ids: list[int]
    type_ids: list[int]
    label: int
    index: int


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Padded rows: `ids`, `mask`, `types` int64 [B, T]; `labels` int64 [B]; `index` int64 [B], position in the data."""

    ids: Tensor
    mask: Tensor
    types: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "TextBatch":
        """Some of its rows, padded as they are here."""
        return TextBatch(*(part[rows] for part in self._parts()))

    def to(self, device: torch.device) -> "TextBatch":
        """The same batch on another device."""
        return TextBatch(*(part.to(device, non_blocking=True) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return self.ids, self.mask, self.types, self.labels, self.index


def encode_examples(
    examples: Sequence[Example],
    labels: Sequence[str],
    encoder: PairEncoder,
    retriever: Retriever | None,
    *,
    top_k: int,
    entities: Entities,
    title: str = "evidence",
) -> list[Row]:
    """Ground and encode each example. `entities`: those that the data names, those that linking finds, or no evidence.

    Without a retriever, or with `top_k` 0, the rows hold the text alone.
    """
    number = {label: n for n, label in enumerate(labels)}
    rows = []
    for index, example in enumerate(track(examples, title)):
        evidence: tuple[Evidence, ...] = ()
        if retriever is not None and top_k > 0 and entities != "none":
            named = list(example.entities) if entities == "gold" else None
            evidence = retriever.ground(example.text, top_k, named).evidence
        pair = encoder.encode(example.text, evidence)
        rows.append(Row(pair.ids, pair.type_ids, number[example.label], index))
    return rows


def collate(rows: Sequence[Row], pad_id: int) -> TextBatch:
    """Pad rows to the longest."""
    width = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    types = torch.zeros(len(rows), width, dtype=torch.int64)
    for n, row in enumerate(rows):
        ids[n, : len(row.ids)] = torch.tensor(row.ids)
        types[n, : len(row.ids)] = torch.tensor(row.type_ids)
        mask[n, : len(row.ids)] = 1
    labels = torch.tensor([row.label for row in rows])
    return TextBatch(ids, mask, types, labels, torch.tensor([row.index for row in rows]))


class TextBatches:
    """Batches of an epoch, shuffled by (seed, epoch), rows of like length together to save padding.

    `changed` gives for an epoch the rows that differ in it, by their place in `rows` (`groundwire.export.augment`).
    """

    def __init__(
        self,
        rows: Sequence[Row],
        batch_size: int,
        pad_id: int,
        seed: int,
        changed: Callable[[int], Mapping[int, Row]] | None = None,
    ) -> None:
        self.rows, self.changed = rows, changed
        self.batch_size, self.pad_id, self.seed = batch_size, pad_id, seed

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[TextBatch]:
        """The batches of one epoch; the same for the same epoch, so that training can be resumed in its middle."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        changed = self.changed(epoch) if self.changed else {}
        chosen = [changed.get(n, self.rows[n]) for n in order]
        window = 50 * self.batch_size
        batches: list[list[Row]] = []
        for start in range(0, len(chosen), window):
            part = sorted(chosen[start : start + window], key=lambda row: len(row.ids))
            batches += [part[n : n + self.batch_size] for n in range(0, len(part), self.batch_size)]
        for n in torch.randperm(len(batches), generator=generator).tolist():
            yield collate(batches[n], self.pad_id)


def ordered_batches(rows: Sequence[Row], batch_size: int, pad_id: int) -> Iterator[TextBatch]:
    """All rows once, longest first, for measuring; `index` tells where each belongs."""
    order = sorted(range(len(rows)), key=lambda n: -len(rows[n].ids))
    for start in range(0, len(order), batch_size):
        yield collate([rows[n] for n in order[start : start + batch_size]], pad_id)


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly over all: data are often sorted."""
    return sorted({place * count // most for place in range(most)}) if most < count else list(range(count))
