"""The bundle: the folder that the toolchain writes and the server runs.

    manifest.json       groundwire.v1.BundleManifest as protobuf JSON
    model.onnx          encoder, heads, calibration and uncertainty
    tokenizer.json      Hugging Face `tokenizers` format
    words.txt           words that spelling is put right with, if the manifest says so (`groundwire.kg.known_words`)
    certificate.json    groundwire.v1.Certificate as protobuf JSON
    certificate.html    the same, for people

The manifest lists the SHA-256 of every other file. A bundle is checked whole before any of it is used; nothing in it
is pickled, and ONNX Runtime gets the very bytes that were hashed.
"""

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message

from groundwire.errors import BundleError
from groundwire.kg.encode import PairEncoder
from groundwire.kg.format import put_in_place
from groundwire.kg.known_words import KnownWords
from groundwire.kg.normalise import Normaliser
from groundwire.v1 import bundle_pb2

FORMAT_VERSION = 1
CERTIFICATE_FORMAT_VERSION = 1
TASK = "text-classification"
MANIFEST = "manifest.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
WORDS = "words.txt"
CERTIFICATE = "certificate.json"
CERTIFICATE_PAGE = "certificate.html"

# Tensors of model.onnx. B rows, T tokens, K heads, C labels.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")  # int64 [B, T] each
OUTPUTS = (
    "logits",  # float32 [B, C], mean over the heads, before temperature
    "probabilities",  # float32 [B, C], calibrated
    "head_probabilities",  # float32 [B, K, C], calibrated
    "entropy",  # float32 [B], of `probabilities`, nats
    "mutual_information",  # float32 [B], between label and head, nats
    "energy",  # float32 [B], logit units
    "distance",  # float32 [B], relative Mahalanobis distance of the pooled features
)

NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_M = TypeVar("_M", bound=Message)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check. `model`, `tokenizer` and `words` are the bytes that were hashed.

    `words` is empty unless the manifest asks for spelling to be put right.
    """

    path: Path
    manifest: bundle_pb2.BundleManifest
    certificate: bundle_pb2.Certificate
    model: bytes
    tokenizer: bytes
    words: bytes = b""

    def encoder(self) -> PairEncoder:
        """What makes the model's rows of texts and evidence, as they were made for training.

        Raises:
            BundleError: tokenizer or words can't be used.
        """
        kind = self.manifest.inputs.text_normalisation
        try:
            words = KnownWords.from_bytes(self.words) if kind == bundle_pb2.TEXT_NORMALISATION_SPELL else None
        except ValueError as error:
            raise BundleError(f"{self.path / WORDS}: {error}. Rebuild the bundle.") from error
        normaliser = Normaliser(words) if kind else None
        try:
            return PairEncoder(self.tokenizer, self.manifest.inputs.max_tokens, normaliser)
        except ValueError as error:
            raise BundleError(f"{self.path / TOKENIZER}: {error}. Rebuild the bundle.") from error


def open_bundle(path: Path) -> Bundle:
    """Read and check the bundle in the folder `path`.

    Raises:
        BundleError: the folder or a file of it is missing, a hash differs, the format version is not known, or the
            manifest contradicts itself.
    """
    if not path.is_dir():
        raise BundleError(
            f"{path} is not a bundle: no such folder. Build one with `groundwire build RECIPE --out DIR`."
        )
    manifest = _parse(_read(path, MANIFEST), bundle_pb2.BundleManifest(), path / MANIFEST)
    if manifest.format_version != FORMAT_VERSION:
        raise BundleError(
            f"{path / MANIFEST}: bundle format {manifest.format_version} is not known (this version of Groundwire "
            f"reads format {FORMAT_VERSION}). Rebuild the bundle, or install the version that wrote it."
        )
    _check_manifest(manifest, path)
    contents = {}
    for name, expected in manifest.files.items():
        if Path(name).name != name or name in {".", ".."}:
            raise BundleError(f"{path / MANIFEST}: {name!r} is not a plain file name; the manifest was tampered with.")
        content = _read(path, name)
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise BundleError(
                f"{path / name}: SHA-256 is {actual[:12]}…, the manifest says {expected[:12]}…: the file is damaged "
                "or was changed. Copy the bundle again or rebuild it."
            )
        contents[name] = content
    spelled = manifest.inputs.text_normalisation == bundle_pb2.TEXT_NORMALISATION_SPELL
    missing = ({MODEL, TOKENIZER, CERTIFICATE} | ({WORDS} if spelled else set())) - contents.keys()
    if missing:
        raise BundleError(
            f"{path / MANIFEST} lists no {', '.join(sorted(missing))}: the bundle is incomplete; rebuild it."
        )
    if manifest.version != manifest.files[MODEL][:12]:
        raise BundleError(
            f"{path / MANIFEST}: version {manifest.version!r} is not that of the model; the manifest was tampered with."
        )
    certificate = _parse(contents[CERTIFICATE], bundle_pb2.Certificate(), path / CERTIFICATE)
    if certificate.format_version != CERTIFICATE_FORMAT_VERSION:
        raise BundleError(
            f"{path / CERTIFICATE}: certificate format {certificate.format_version} is not known "
            f"(known: {CERTIFICATE_FORMAT_VERSION}). Rebuild the bundle."
        )
    words = contents[WORDS] if spelled else b""
    return Bundle(path, manifest, certificate, contents[MODEL], contents[TOKENIZER], words)


def seal_bundle(staging: Path, manifest: bundle_pb2.BundleManifest, out: Path) -> Bundle:
    """Hash the files in `staging` into `manifest`, write it beside them, and move the folder to `out` in one step.

    A bundle that was at `out` is replaced; a reader sees the old one or the new one, or for an instant none.

    Raises:
        BundleError: the sealed bundle would not pass `open_bundle`, or `out` holds something that is no bundle.
    """
    check_replaceable(out)
    manifest.files.clear()
    for file in sorted(staging.iterdir()):
        if file.name != MANIFEST:
            manifest.files[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    manifest.version = manifest.files[MODEL][:12]
    (staging / MANIFEST).write_text(to_json(manifest), encoding="utf-8")
    open_bundle(staging)
    out.parent.mkdir(parents=True, exist_ok=True)
    put_in_place(staging, out)
    return open_bundle(out)


def check_replaceable(out: Path) -> None:
    """Refuse to write a bundle where something else lies.

    Raises:
        BundleError: `out` is a link, or holds something that is no bundle.
    """
    if out.is_symlink():
        raise BundleError(f"{out} is a link; name the folder that it leads to, or another --out.")
    if not out.name:
        raise BundleError(f"{out} has no name that a bundle could have; choose another --out.")
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise BundleError(f"{out} exists and is not a bundle; choose another --out or remove it.")


def to_json(message: Message) -> str:
    """Protobuf JSON with the field names of the .proto file, defaults included, so that it reads as documentation."""
    return json_format.MessageToJson(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True, indent=1
    )


def _check_manifest(manifest: bundle_pb2.BundleManifest, path: Path) -> None:
    """Refuse values that would fail later, at the first request, in a way that is harder to read."""
    labels = list(manifest.labels)
    knots = list(manifest.out_of_distribution.distance_quantiles)
    problems = [
        (NAME.fullmatch(manifest.name) is None, f"name {manifest.name!r} must be 1 to 128 of A-Z a-z 0-9 . _ -"),
        (manifest.task != TASK, f"task {manifest.task!r} is not known (known: {TASK})"),
        (len(labels) < 2 or len(set(labels)) != len(labels), "labels must be at least two, all different"),
        (not 8 <= manifest.inputs.max_tokens <= 8192, "inputs.max_tokens must be 8 to 8192"),
        (manifest.inputs.top_k > 256, "inputs.top_k must be 0 to 256"),
        (
            manifest.inputs.text_normalisation not in bundle_pb2.TextNormalisation.values(),
            "inputs.text_normalisation is not known",
        ),
        (not 0 < manifest.policy.coverage < 1, "policy.coverage must lie between 0 and 1"),
        (
            not any(q.method == manifest.policy.method and q.scores for q in manifest.conformal),
            "policy.method has no conformal scores",
        ),
        (
            not all(_ascending(q.scores) for q in manifest.conformal),
            "conformal scores must be ascending numbers",
        ),
        (
            len(knots) < 101 or not _ascending(knots),
            "out_of_distribution.distance_quantiles must be 101 or more ascending numbers",
        ),
        (not 0 < manifest.policy.max_distance_quantile <= 1, "policy.max_distance_quantile must be above 0, at most 1"),
    ]
    for wrong, what in problems:
        if wrong:
            raise BundleError(f"{path / MANIFEST}: {what}. Rebuild the bundle.")


def _ascending(numbers: Sequence[float]) -> bool:
    return all(map(math.isfinite, numbers)) and list(numbers) == sorted(numbers)


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise BundleError(
            f"{path / name} can't be read ({error.strerror}): the bundle is incomplete; rebuild it."
        ) from error
    except ValueError as error:  # a null character
        raise BundleError(f"{path / MANIFEST}: {name!r} is not a plain file name; it was tampered with.") from error


def _parse(content: bytes, message: _M, where: Path) -> _M:
    try:
        return json_format.Parse(content.decode("utf-8"), message)
    except (json_format.ParseError, UnicodeDecodeError) as error:
        raise BundleError(f"{where} is not a valid {message.DESCRIPTOR.name}: {error}. Rebuild the bundle.") from error
