"""A model repository on disk, in Triton's layout: `FOLDER/NAME/VERSION/model.onnx`, or a bundle in place of the file.

Only looks; what is done with what it finds is `groundwire.server.model_control`. Nothing outside the folder is ever
read: names are checked before they become paths, and symbolic links must end inside.
"""

import logging
import os
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from groundwire.bundle import MANIFEST, MODEL
from groundwire.server.errors import ConfigurationError, InvalidRequestError

# A leading dot is left out on purpose: that is how `.git`, and the data folders of mounted volumes, begin.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")
_NUMBER = re.compile(r"[1-9][0-9]{0,17}")  # what fits a signed 64-bit integer
# Of each file: device, inode, time of change, size. Another one means another content.
Signature = tuple[tuple[str, int, int, int, int], ...]

_log = logging.getLogger("groundwire.server")


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a model as it lies on disk.

    `problem` says why it can't be served, as far as looking tells, and is empty otherwise.
    """

    name: str
    number: int
    path: Path
    signature: Signature
    bundle: bool = False
    problem: str = ""


Versions = Mapping[int, ModelVersion]  # by number, ascending


def check_name(name: str) -> None:
    """Refuse what can't be the name of a model.

    Raises:
        InvalidRequestError: it can't.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidRequestError(
            "model_name", f"{name[:128]!r} is no name of a model: 1 to 128 of A-Z a-z 0-9 . _ - without a dot first"
        )


class Repository:
    """The models below `folder`.

    Raises:
        ConfigurationError: `folder` is no folder, or can't be read.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.folder = folder.resolve(strict=True)
            os.scandir(self.folder).close()
        except OSError as error:
            raise ConfigurationError(
                f"the model repository {folder} can't be read ({error.strerror}); give --models a folder that holds "
                "NAME/VERSION/model.onnx"
            ) from error
        self._ignored: set[str] = set()

    def scan(self) -> dict[str, Versions]:
        """Every model with its versions; a model may have none.

        Raises:
            ConfigurationError: the folder can't be read.
        """
        found: dict[str, Versions] = {}
        for name in self._folders():
            if name.startswith("."):
                continue
            if _NAME.fullmatch(name) is None:
                if name not in self._ignored:
                    _log.warning("model ignored", extra={"fields": {"folder": name, "why": "no name of a model"}})
                self._ignored.add(name)
                continue
            versions = self.find(name)
            if versions is not None:
                found[name] = versions
        return found

    def find(self, name: str) -> Versions | None:
        """The versions of one model, or None when there is no such model. Folders that are no number are left out.

        Of a folder that can't be read one version is given, with this as its problem: the other models are as good.

        Raises:
            InvalidRequestError: `name` can't be the name of a model.
        """
        check_name(name)
        folder = self.folder / name
        try:
            if not folder.is_dir():
                return None
            if not self._holds(folder):
                return self._unusable(name, f"{name} is a link that leads out of the repository")
            numbers = sorted(int(entry.name) for entry in folder.iterdir() if _NUMBER.fullmatch(entry.name))
            return {number: self._version(name, number) for number in numbers if (folder / str(number)).is_dir()}
        except FileNotFoundError:  # removed while it was looked at
            return None
        except OSError as error:
            return self._unusable(name, f"{name} can't be read: {error.strerror}")

    def _unusable(self, name: str, problem: str) -> Versions:
        return {1: ModelVersion(name, 1, self.folder / name, (), problem=problem)}

    def _folders(self) -> list[str]:
        try:
            return sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        except OSError as error:
            raise ConfigurationError(f"the model repository can't be read: {error.strerror}") from error

    def _version(self, name: str, number: int) -> ModelVersion:
        folder = self.folder / name / str(number)
        signature: list[tuple[str, int, int, int, int]] = []
        problem = ""
        try:
            for path in self._below(folder):
                relative = path.relative_to(self.folder)
                if not self._holds(path):
                    problem = problem or f"{relative} is a link that leads out of the repository"
                    continue
                status = path.stat()
                if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
                    problem = problem or f"{relative} is neither a file nor a folder"
                signature.append((str(relative), status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size))
        except OSError as error:  # a file that vanishes while it is looked at, or may not be read
            problem = problem or f"{name}/{number} can't be read: {error.strerror}"
        bundle = (folder / MANIFEST).is_file()
        if not problem and not bundle and not (folder / MODEL).is_file():
            problem = f"{name}/{number} holds neither {MODEL} nor a bundle with its {MANIFEST}"
        return ModelVersion(name, number, folder, tuple(sorted(signature)), bundle, problem)

    def _below(self, folder: Path) -> Iterator[Path]:
        """The folder and all that is in it; a folder that is a link is given, and not entered."""

        def fail(error: OSError) -> None:
            raise error

        for parent, folders, files in os.walk(folder, onerror=fail):
            yield Path(parent)
            yield from (Path(parent) / name for name in files)
            yield from (path for name in folders if (path := Path(parent) / name).is_symlink())

    def _holds(self, path: Path) -> bool:
        """Whether the path, its links followed, ends inside the repository."""
        return Path(os.path.realpath(path)).is_relative_to(self.folder)
