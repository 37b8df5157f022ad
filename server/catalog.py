"""The models that answer now, by name and version, each kept open for as long as somebody uses it."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

from groundwire.server.errors import ConfigurationError, ModelNotReadyError, UnknownModelError
from groundwire.server.live import Lease
from groundwire.server.servable import Servable

Leases = dict[str, Lease[Servable]]  # by version, the default one last


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names in order, as many as a message has room for."""
    ordered = sorted(names)
    rest = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + rest or "none now"


class Catalog:
    """What every service looks models up in. For one event loop.

    Args:
        fixed: models that stay to the end, and that the caller closes.

    Raises:
        ConfigurationError: two have the same name.
    """

    def __init__(self, fixed: Iterable[Servable] = ()) -> None:
        self._models: dict[str, Leases] = {}
        for model in fixed:
            if model.name in self._models:
                raise ConfigurationError(
                    f"two models are both named {model.name}; a server holds one of a name. Leave one out, rename one "
                    "with --model NAME=FILE, or build the bundle under another name."
                )
            self._models[model.name] = {model.version: Lease(model, lambda _: None)}
        self._fixed = frozenset(self._models)
        self._waiting: dict[str, str] = {}  # models that are known and not ready, and why
        self._changed: Callable[[], None] = lambda: None

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call `changed` after each change from now on, and once now."""
        self._changed = changed
        changed()

    def knows(self, name: str) -> bool:
        """Whether there is a model of that name, ready or not."""
        return name in self._models or name in self._waiting

    def is_fixed(self, name: str) -> bool:
        """Whether that model was there from the beginning and stays."""
        return name in self._fixed

    def put(self, name: str, leases: Leases, reason: str = "") -> None:
        """Answer for `name` with these versions from now on; with none, say `reason`, or know nothing of the model."""
        self._models = {other: held for other, held in self._models.items() if other != name} | (
            {name: leases} if leases else {}
        )
        self._waiting.pop(name, None)
        if not leases and reason:
            self._waiting[name] = reason
        self._changed()

    def lease(self, name: str, version: str) -> AbstractContextManager[Servable]:
        """Keep a model open until the block ends, whatever replaces it. An empty version means the default one.

        Raises:
            ModelNotReadyError: the model is known, and no version of it answers now.
            UnknownModelError: there is none of that name, or no such version.
        """
        return self._lease(name, version)

    def get(self, name: str, version: str) -> Servable:
        """As `lease`, for what takes no time."""
        return self._lease(name, version).value

    def versions(self, name: str) -> list[str]:
        """Versions of a model that answer now, the default one last."""
        return list(self._models.get(name, ()))

    def all(self) -> list[Servable]:
        """Every version of every model, in the order of their names."""
        return [lease.value for _, leases in sorted(self._models.items()) for lease in leases.values()]

    def _lease(self, name: str, version: str) -> Lease[Servable]:
        leases = self._models.get(name)
        if leases is None:
            if name in self._waiting:
                raise ModelNotReadyError(f"the model {name} is not ready: {self._waiting[name]}")
            held = listed(self._models)
            raise UnknownModelError(f"no model is named {name[:128]!r}; this server holds {held}")
        lease = leases.get(version or next(reversed(leases)))
        if lease is None:
            held = " and ".join(leases)
            raise UnknownModelError(f"{name} is served in version {held}, not {version[:64]!r}; leave it out")
        return lease
