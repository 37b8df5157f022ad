"""Examples: JSONL in, checked line by line, hashed, and split without letting an entity stand on both sides."""

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from groundwire.export.errors import DataError
from groundwire.surrogates import SURROGATE


@dataclass(frozen=True, slots=True)
class Example:
    """A text with its label. `entities` are the IRIs that it is about, when the data says so."""

    id: str
    text: str
    label: str
    entities: tuple[str, ...] = ()


def read_examples(path: Path) -> list[Example]:
    """Read a JSONL file of objects with `id`, `text`, `label` and optional `entities`; blank lines are passed over.

    Raises:
        DataError: the file can't be read, or a line of it is not such an object; the message names the line.
    """
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} can't be read as UTF-8 text: {error}") from error
    examples = [_parse(line, f"{path}:{n}") for n, line in enumerate(content.split("\n"), 1) if line.strip()]
    if not examples:
        raise DataError(f"{path} holds no examples; each line must be an object with id, text and label.")
    return examples


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def split_by_entity(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split into about `1 - share` and `share` of the examples, keeping together those that share an entity.

    So do those that are connected over others. Examples without entities count as a group each. The order within each
    part is that of `examples`.
    """
    groups = _connected(examples)
    names = sorted(set(groups))
    random.Random(seed).shuffle(names)
    sizes = dict.fromkeys(names, 0)
    for group in groups:
        sizes[group] += 1
    second: set[str] = set()
    taken = 0
    for name in names:
        if taken >= share * len(examples):
            break
        second.add(name)
        taken += sizes[name]
    return (
        [e for e, g in zip(examples, groups, strict=True) if g not in second],
        [e for e, g in zip(examples, groups, strict=True) if g in second],
    )


def _connected(examples: Sequence[Example]) -> list[str]:
    """The name of each example's group."""
    parent: dict[str, str] = {}

    def root(entity: str) -> str:
        while parent.setdefault(entity, entity) != entity:
            parent[entity] = parent[parent[entity]]
            entity = parent[entity]
        return entity

    for example in examples:
        for entity in example.entities:
            parent[root(entity)] = root(example.entities[0])
    names = [" ".join(sorted(e.entities)) or f"id {e.id}" for e in examples]
    roots = [root(e.entities[0]) if e.entities else name for e, name in zip(examples, names, strict=True)]
    first: dict[str, str] = {}
    for top, name in zip(roots, names, strict=True):
        first[top] = min(name, first.get(top, name))
    return [first[top] for top in roots]


def label_names(examples: Iterable[Example]) -> list[str]:
    """All labels, sorted."""
    return sorted({example.label for example in examples})


def _parse(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}).") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: must be a JSON object with id, text and label.")
    for key in ("id", "text", "label"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise DataError(f"{where}: {key!r} must be a string that is not blank.")
        if SURROGATE.search(row[key]):
            raise DataError(f"{where}: {key!r} holds half of a surrogate pair, which is no character; write it whole.")
    entities = row.get("entities", [])
    if not isinstance(entities, list) or not all(isinstance(e, str) and not SURROGATE.search(e) for e in entities):
        raise DataError(f"{where}: 'entities' must be a list of IRIs.")
    return Example(row["id"], row["text"], row["label"], tuple(entities))
