"""Load, unload and reload models of a repository while the server answers.

A version is opened beside those that answer, and takes their place by one assignment; a call keeps the version that it
began with, which is closed, and its memory returned, when the last such call ends. A model is changed whole or not at
all: when one of its versions can't be opened, what answered before goes on.
"""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import onnxruntime as ort

from groundwire.errors import GroundwireError
from groundwire.server.catalog import Catalog
from groundwire.server.changes import Changes
from groundwire.server.config import RepositoryConfig
from groundwire.server.errors import (
    ConfigurationError,
    FixedModelsError,
    ModelLoadError,
    ShuttingDownError,
    UnknownModelError,
)
from groundwire.server.model_opener import Opener, OpenVersion
from groundwire.server.repository import Repository, Versions, check_name

READY, UNAVAILABLE, LOADING, UNLOADING = "READY", "UNAVAILABLE", "LOADING", "UNLOADING"  # Triton's words
ALL = "*"
_UNLOCKED = (1, 31)  # the first ONNX Runtime that makes sessions without the interpreter lock

_log = logging.getLogger("groundwire.server")


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of the index. `version` is empty for a model without any."""

    name: str
    version: str
    state: str
    reason: str = ""


class ModelControl:
    """Keeps a catalog as the repository and its clients say. An async context manager: entering loads what is to be
    loaded at the start, one broken model not stopping the others.

    Args:
        config: how many versions of a model answer, and who may change that.
        repository: the folder.
        catalog: where models answer from.
        opener: opens a version.
        seconds: how often to look at the folder, with the control `poll`; 0: only when told.

    Raises:
        ConfigurationError: the folder can't be read.
    """

    def __init__(
        self, config: RepositoryConfig, repository: Repository, catalog: Catalog, opener: Opener, seconds: float
    ) -> None:
        self.config = config
        self._repository = repository
        self._catalog = catalog
        self._opener = opener
        self._seconds = seconds
        self._serving: dict[str, Mapping[int, OpenVersion]] = {}
        self._states: dict[str, dict[int, tuple[str, str]]] = {}  # state and reason, where they are not READY and none
        self._seen: dict[str, object] = {}
        self._tried: dict[str, object] = {}
        # One change at a time: loading should take one core from answering, and not all.
        self._lock = asyncio.Lock()
        self._changes = Changes()
        self._watcher: asyncio.Task[None] | None = None
        self._closing = False

    async def __aenter__(self) -> Self:
        locked = tuple(int(part) for part in ort.__version__.split(".")[:2]) < _UNLOCKED
        if locked and self.config.control != "none":
            _log.warning("calls wait while a model is loaded; ONNX Runtime 1.31 or later would let them go on")
        found = await asyncio.to_thread(self._repository.scan)
        explicit = self.config.control == "explicit"
        names = found.keys() if not explicit or ALL in self.config.load else set(self.config.load)
        for name in sorted(names - set(self.config.without)):
            with contextlib.suppress(GroundwireError):  # logged, and in the index
                if name in found:
                    await self._apply(name, found[name])
                else:
                    self._refuse(name, {0: UnknownModelError("the repository holds no such model")})
        for name, versions in found.items():
            self._seen[name] = self._tried[name] = self._wanted(versions)
        if self.config.control == "poll" and self._seconds:
            self._watcher = asyncio.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing = True
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        if self._changes.under_way:  # no call waits for a load any more: those that may were answered
            self._opener.abandon()
        await self._changes.cancel()
        for name in list(self._serving):
            self._put(name, {}, "the server is shutting down")
        await self._opener.close()

    async def load(self, name: str) -> None:
        """Load a model, or take up its new and changed versions. It goes on when the call that waits is cancelled.

        Raises:
            FixedModelsError: clients may not change models here.
            InvalidRequestError, UnknownModelError: the repository has no model of that name.
            ModelLoadError: a version can't be served; what answered before goes on.
        """
        self.check(name)
        await self._changes.finish(self._load(name))

    async def unload(self, name: str) -> None:
        """Take a model out of service. Calls that use it are answered; then its memory returns.

        Raises:
            FixedModelsError, InvalidRequestError, UnknownModelError: as `load`.
        """
        self.check(name)
        await self._changes.finish(self._unload(name))

    async def poll(self, *, at_rest: bool = False) -> None:
        """Look at the folder, with the control `poll`, and do as it says; else nothing.

        With `at_rest`, a change is only believed when the last look found the same: files may still be written.
        """
        if self.config.control != "poll":
            return
        try:
            found = await asyncio.to_thread(self._repository.scan)
        except ConfigurationError as error:
            _log.error("model repository unreadable", extra={"fields": {"error": str(error)}})
            return
        for name in sorted(found.keys() | self._serving.keys() | self._states.keys()):
            versions = found.get(name, {})
            wanted = self._wanted(versions)
            settled = not at_rest or wanted == self._seen.get(name)
            self._seen[name] = wanted
            if not settled or wanted == self._tried.get(name):
                continue
            self._tried[name] = wanted
            with contextlib.suppress(GroundwireError):  # logged, and in the index
                await self._changes.finish(self._load(name) if versions else self._unload(name))

    async def index(self) -> list[ModelState]:
        """Every model of the folder, and every version of it that the folder holds or that answers, with its state."""
        found = await asyncio.to_thread(self._repository.scan)
        lines: list[ModelState] = []
        for name in sorted(found.keys() | self._serving.keys() | self._states.keys()):
            versions, states = found.get(name, {}), self._states.get(name, {})
            numbers = sorted({*versions, *self._serving.get(name, {}), *states} - {0})
            lines += (ModelState(name, str(n), *self._state(name, n, versions)) for n in numbers)
            if not numbers:
                lines.append(ModelState(name, "", *states.get(0, (UNAVAILABLE, "holds no folder named by a number"))))
        return lines

    def _state(self, name: str, number: int, versions: Versions) -> tuple[str, str]:
        states = self._states.get(name, {})
        if number in states:
            return states[number]
        if number in self._serving.get(name, {}):
            return READY, ""
        if self._opener.leaving(name, number):
            return UNLOADING, ""
        if number not in list(versions)[-self.config.versions :]:
            return UNAVAILABLE, f"not among the latest {self.config.versions}"
        return UNAVAILABLE, "not loaded"

    async def _load(self, name: str) -> None:
        async with self._lock:
            if self._closing:
                raise ShuttingDownError("the server is shutting down; try another server")
            found = await asyncio.to_thread(self._repository.find, name)
            if found is None:
                raise UnknownModelError(f"the model repository holds no model named {name}")
            await self._apply(name, found)

    async def _unload(self, name: str) -> None:
        async with self._lock:
            found = await asyncio.to_thread(self._repository.find, name)
            if found is None and name not in self._serving and name not in self._states:
                raise UnknownModelError(f"the model repository holds no model named {name}")
            numbers = self._serving.get(name, {}).keys()
            self._put(name, {}, "" if found is None else "it is not loaded")
            self._states.pop(name, None)
            if numbers:
                _log.info("model unloaded", extra={"fields": {"model": name, "versions": sorted(numbers)}})
            # Answered when the memory is back, so that a client may load the next model into it.
            await self._opener.closed()

    async def _apply(self, name: str, found: Versions) -> None:
        """Make the latest versions of `found` answer. Raises ModelLoadError."""
        wanted = {number: found[number] for number in list(found)[-self.config.versions :]}
        serving = self._serving.get(name, {})
        states = self._states.setdefault(name, {})
        states.clear()
        problems: dict[int, Exception] = {}
        opened: dict[int, OpenVersion] = {}
        if self._catalog.is_fixed(name):
            taken = ConfigurationError("its name is that of a model given by --bundle or --model")
            problems = dict.fromkeys(wanted or (0,), taken)
        elif not wanted:
            problems = {0: ConfigurationError("it holds no folder named by a version number, such as 1")}
        for number, version in wanted.items() if not problems else ():
            held = serving.get(number)
            if held is not None and held.signature == version.signature:
                opened[number] = held
                continue
            if held is None:
                states[number] = (LOADING, "")
            try:
                opened[number] = await self._opener.open(version)
                states.pop(number, None)
            except Exception as error:  # whatever is wrong with one model, the others are as good as they were
                problems[number] = error
            except asyncio.CancelledError:
                self._drop_new(name, opened)
                raise
        if problems and serving:
            self._drop_new(name, opened)
            opened = dict(serving)
        reason = self._refuse(name, problems) if problems else ""
        if opened != serving or reason:
            self._put(name, opened, reason)
        for number in problems.keys() & opened.keys():
            states[number] = (READY, f"as it was before; what lies there now is refused: {states[number][1]}")
        if problems:
            going_on = f"; version {' and '.join(map(str, opened))} answers" if opened else ""
            raise ModelLoadError(f"{name} can't be loaded: {reason}{going_on}") from next(iter(problems.values()))
        _log.info("model ready", extra={"fields": {"model": name, "versions": sorted(opened)}})

    def _drop_new(self, name: str, opened: Mapping[int, OpenVersion]) -> None:
        """Close those of `opened` that don't answer."""
        for number, one in opened.items():
            if self._serving.get(name, {}).get(number) is not one:
                self._opener.drop(name, number, one)

    def _put(self, name: str, opened: Mapping[int, OpenVersion], reason: str) -> None:
        old = self._serving.pop(name, {})
        if opened:
            self._serving[name] = dict(sorted(opened.items()))
        if not self._catalog.is_fixed(name):
            self._catalog.put(name, {str(n): one.lease for n, one in sorted(opened.items())}, reason)
        for number, one in old.items():
            if opened.get(number) is not one:
                self._opener.drop(name, number, one)

    def _refuse(self, name: str, problems: Mapping[int, Exception]) -> str:
        """Write down why versions can't be served. Returns it in one line, without the path of the repository."""
        root = f"{self._repository.folder}/"
        reasons = {number: _unicode(str(error).replace(root, "")) for number, error in problems.items()}
        for number, error in problems.items():
            if not isinstance(error, GroundwireError):
                _log.error("bug", exc_info=error)
                reasons[number] = "internal error; the server's log has the details"
        self._states.setdefault(name, {}).update({n: (UNAVAILABLE, reason) for n, reason in reasons.items()})
        whole = "; ".join(f"version {number}: {reason}" if number else reason for number, reason in reasons.items())
        answering = sorted(self._serving.get(name, {}))
        _log.error("model refused", extra={"fields": {"model": name, "error": whole, "answering": answering}})
        return whole

    def _wanted(self, versions: Versions) -> object:
        """What tells one state of the versions that should answer from another."""
        return [(n, versions[n].signature, versions[n].problem) for n in list(versions)[-self.config.versions :]]

    def check(self, name: str) -> None:
        """Refuse a change that no model could see, before anything is done for it.

        Raises:
            FixedModelsError: clients may not change models here.
            InvalidRequestError: `name` can't be the name of a model.
        """
        if self.config.control != "explicit":
            raise FixedModelsError(
                f"models can't be loaded or unloaded by clients: the server runs with --model-control "
                f"{self.config.control}, not explicit"
            )
        check_name(name)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._seconds)
            try:
                await self.poll(at_rest=True)
            except Exception as error:  # a bug; the next look may go better
                _log.error("bug", exc_info=error)


def _unicode(text: str) -> str:
    """The text with what is no Unicode in the names of files written out, so that it can be sent."""
    return text.encode("utf-8", "backslashreplace").decode()
