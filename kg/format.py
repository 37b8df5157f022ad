"""The folder that a compiled graph is: its files, what they hold, and how they are written, checked and opened.

Arrays are little-endian `.npy` files, strings are a `.bin` file of UTF-8 beside an `.npy` of offsets. `meta.json` holds
the format version, the settings, the counts, and size and SHA-256 of every other file.

| file | shape and type | holds |
| --- | --- | --- |
| terms | n strings | string form of each term (`groundwire.kg.terms`), sorted by code point |
| labels | n strings | preferred label of each IRI and blank node; empty when it is the fallback of the term itself |
| triple_subject, _predicate, _object | (m,) u4 | terms of each triple; triples in canonical order |
| triple_graph | (m,) u4 | place in `graphs` |
| graphs | (g,) u4 | terms of the named graphs; place 0 is the default graph |
| outgoing | (n + 1,) u8 | first triple of each subject |
| incoming | (n + 1,) u8 | first place of each object in `incoming_triple` |
| incoming_triple | (m,) u4 | triples by object, then canonical order |
| vocabulary_hash | (w,) u8 | hash of each stem, rising |
| vocabulary_frequency | (w,) u4 | triples whose predicate's or object's label holds the stem |
| term_words_offset, term_words | (n + 1,) i8, u4 | distinct stems of each term's label, as places in the vocabulary |
| term_digit | (n,) u1 | whether the label holds a digit |
| term_vectors | (n, 64) i1 | vector of each term's label; only with word vectors, as the next two |
| token_vectors | (t, 64) i1 | the table of `groundwire.kg.vectors` |
| tokenizer | 1 string | its `tokenizer.json` |
| keys | k strings | folded labels, in order of their hash (of the label without spaces), then of the string |
| key_hash | (k,) u8 | hash of each key, rising |
| part_hash, part_key | (q,) u8, u4 | hash of each part of a label, rising, and the label's key |
| key_filter | (b / 8,) u1 | Bloom filter (one hash) of keys and parts: most word sequences of a text are neither |
| label_words | v strings | words of the labels that misspellings are looked for, in alphabetic order |
| spelling_hash, spelling_word | (d,) u8, u4 | hash of each word less one letter (a long one: two), rising; its word |
| lower_hash, lower_count | (l,) u8, u4 | hash of each word in lower case or alone in the texts, rising; how often |
| about_offset, about | (n + 1,) i8, u4 | distinct stems of each entity's description, as places in the vocabulary |
| key_posting | (k + 1,) u8 | first place of each key in the postings |
| posting_term, posting_kind | u4, u1 | entity, and kind + 2 * shape (`groundwire.kg.index`) |
| aliases | a strings | other IRIs of fused entities, sorted; only with fused entities, as the next two |
| alias_term | (a,) u4 | the entity of each alias |
| alias_by_term | (a,) u4 | places in `aliases`, by entity, then alias |
| conflict_pair | (c,) u8 | subject * 2^32 + predicate of each conflict of a functional predicate, rising; only if any |
| report.json | | what the build found: fused entities, conflicts, inferred triples |
"""

import errno
import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundwire.kg.errors import CompiledGraphError
from groundwire.kg.staging import staging_folder

FORMAT_VERSION = 3
META = "meta.json"
_BLOCK = 1 << 20
# Folders up to this size are hashed whole when they are opened; of larger ones, each file's ends and a sample.
_FULL_CHECK = 64 << 20
_SAMPLES = 16
# The type of each array but offsets of strings, which are u8. The wide ones have two axes, the second of 64.
_TYPES = {
    **dict.fromkeys(
        ("outgoing", "incoming", "vocabulary_hash", "key_hash", "part_hash", "spelling_hash", "lower_hash",
         "key_posting", "conflict_pair"), "u8"),
    **dict.fromkeys(
        ("triple_subject", "triple_predicate", "triple_object", "triple_graph", "graphs", "incoming_triple",
         "vocabulary_frequency", "term_words", "part_key", "spelling_word", "lower_count", "about", "posting_term",
         "alias_term", "alias_by_term"), "u4"),
    **dict.fromkeys(("term_words_offset", "about_offset"), "i8"),
    **dict.fromkeys(("term_digit", "key_filter", "posting_kind"), "u1"),
    **dict.fromkeys(("term_vectors", "token_vectors"), "i1"),
}  # fmt: skip
_WIDE, _WIDTH = ("term_vectors", "token_vectors"), 64
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, None)  # numpy gives no number
_ENTRY = {"size": int, "sha256": str, "sample_sha256": str}


class FolderWriter:
    """Writes a compiled graph beside `out` and puts it in place when it is finished.

    However the block ends, nothing else is left. Raises `CompiledGraphError` when `out` holds something else, can't be
    written, or is being built by another process.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._staging = ExitStack()

    def __enter__(self) -> "FolderWriter":
        if (
            self._out.exists()
            and not (self._out / META).is_file()
            and (not self._out.is_dir() or any(self._out.iterdir()))
        ):
            raise CompiledGraphError(f"{self._out} exists and is no compiled graph; choose another folder")
        self._folder = self._staging.enter_context(staging_folder(self._out, CompiledGraphError))
        return self

    def array(self, name: str, values: NDArray[Any]) -> None:
        """Write an array as `name.npy`, in its type."""
        np.save(self._folder / f"{name}.npy", np.ascontiguousarray(values, dtype=_type_of(name)))

    def strings(self, name: str, values: Iterable[str], count: int) -> None:
        """Write `count` strings as `name.bin` and their byte offsets as `name_offset.npy`."""
        offsets = np.zeros(count + 1, dtype="<u8")
        position = 0
        with (self._folder / f"{name}.bin").open("wb", buffering=_BLOCK) as stream:
            for place, value in enumerate(values):
                position += stream.write(value.encode("utf-8", "surrogatepass"))
                offsets[place + 1] = position
        np.save(self._folder / f"{name}_offset.npy", offsets)

    def json(self, name: str, document: Any) -> None:
        """Write a document as the file `name`."""
        text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=True)
        (self._folder / name).write_text(text + "\n", encoding="utf-8")

    def finish(self, meta: dict[str, Any]) -> None:
        """Write `meta.json`, with format version and the size and hashes of all files, and put the folder in place."""
        files = {path.name: _describe(path) for path in sorted(self._folder.iterdir())}
        document = {"format_version": FORMAT_VERSION, **meta, "files": files}
        (self._folder / META).write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for path in self._folder.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        put_in_place(self._folder, self._out)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._staging.close()
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise CompiledGraphError(
                f"can't write beside {self._out}: {error.strerror or error}; make room, or choose another folder"
            ) from error


def _type_of(name: str) -> np.dtype[Any]:
    return np.dtype(f"<{_TYPES.get(name, 'u8')}")


def put_in_place(folder: Path, out: Path) -> None:
    """Rename a finished folder to `out`, replacing what is there; who has the old one open keeps it."""
    if not out.exists():
        folder.rename(out)
        return
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    shutil.rmtree(old, ignore_errors=True)
    try:
        out.rename(old)
        folder.rename(out)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:  # a signal between them, for one
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
        raise


def _describe(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest(), "sample_sha256": sample_hash(path)}


def sample_hash(path: Path) -> str:
    """SHA-256 of 16 blocks of 4 KiB spread evenly over the file, ends included: what a quick check compares."""
    size, block = path.stat().st_size, 4096
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for place in range(_SAMPLES):
            stream.seek(max(0, size - block) * place // (_SAMPLES - 1))
            digest.update(stream.read(block))
    return digest.hexdigest()


class Folder:
    """A compiled graph's files, memory-mapped. Raises `CompiledGraphError` when any is missing, cut or changed."""

    def __init__(self, path: Path, full_check: bool | None = None) -> None:
        self.path = path
        self.meta = _read_meta(path)
        total = sum(entry["size"] for entry in self.meta["files"].values())
        _check(path, self.meta["files"], total <= _FULL_CHECK if full_check is None else full_check)

    def array(self, name: str) -> NDArray[Any]:
        """The array `name`, memory-mapped and read-only."""
        file = self.path / f"{name}.npy"
        self._listed(file)
        try:
            mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise CompiledGraphError(f"{file}: damaged ({error}); compile the graph again") from error
        tail = (_WIDTH,) if name in _WIDE else ()
        if mapped.dtype != _type_of(name) or mapped.shape[1:] != tail or not mapped.ndim:
            raise CompiledGraphError(
                f"{file}: damaged ({mapped.dtype} of shape {mapped.shape}); compile the graph again"
            )
        # A plain array view of the map: numpy's memmap class costs microseconds a slice.
        view: NDArray[Any] = mapped.view(np.ndarray)
        return view

    def has(self, name: str) -> bool:
        """Whether the folder holds the array `name`."""
        return f"{name}.npy" in self.meta["files"]

    def blob(self, name: str) -> "mmap.mmap | bytes":
        """The bytes of the strings `name`, memory-mapped."""
        file = self.path / f"{name}.bin"
        self._listed(file)
        with file.open("rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) if file.stat().st_size else b""

    def _listed(self, file: Path) -> None:
        if file.name not in self.meta["files"]:
            raise CompiledGraphError(f"{self.path / META} lists no {file.name}; compile the graph again")


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / META).is_file():
        raise CompiledGraphError(
            f"{path} is no compiled graph: it has no {META}; make one with `groundwire kg compile`"
        )
    try:
        meta = json.loads((path / META).read_text(encoding="utf-8"))
        version = meta["format_version"]
        files = meta["files"]
        sound = all(isinstance(entry[name], kind) for entry in files.values() for name, kind in _ENTRY.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CompiledGraphError(f"{path / META} is damaged ({error}); compile the graph again") from error
    if not sound:
        raise CompiledGraphError(f"{path / META} is damaged (sizes or hashes); compile the graph again")
    if version != FORMAT_VERSION:
        raise CompiledGraphError(
            f"{path} is of format version {version}, and this Groundwire reads version {FORMAT_VERSION}: "
            "compile the graph again with this version"
        )
    return dict(meta)


def _check(path: Path, files: dict[str, dict[str, Any]], full: bool) -> None:
    for name, entry in files.items():
        file = path / name
        if Path(name).name != name or not file.is_file():
            raise CompiledGraphError(f"{file} is missing; compile the graph again")
        size = file.stat().st_size
        if size != entry["size"]:
            raise CompiledGraphError(f"{file} has {size} bytes instead of {entry['size']}; compile the graph again")
        found = _describe(file)["sha256"] if full else sample_hash(file)
        if found != entry["sha256" if full else "sample_sha256"]:
            raise CompiledGraphError(f"{file} was changed since it was compiled; compile the graph again")
