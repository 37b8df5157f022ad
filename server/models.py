"""The models that a server holds, by name."""

from collections.abc import Iterable

from groundwire.server.errors import ConfigurationError, InvalidRequestError, UnknownModelError
from groundwire.server.pipeline import Pipeline


class Models:
    """Pipelines by the name of their bundle.

    Raises:
        ConfigurationError: there is none, or two have the same name.
    """

    def __init__(self, pipelines: Iterable[Pipeline]) -> None:
        self._by_name: dict[str, Pipeline] = {}
        for pipeline in pipelines:
            name = pipeline.bundle.manifest.name
            if name in self._by_name:
                raise ConfigurationError(
                    f"{self._by_name[name].bundle.path} and {pipeline.bundle.path} are both named {name}; a server "
                    "holds one model of a name. Leave one out, or build it under another name."
                )
            self._by_name[name] = pipeline
        if not self._by_name:
            raise ConfigurationError("no bundle was given; name at least one with --bundle DIR.")

    def get(self, name: str, field: str) -> Pipeline:
        """The model of that name; an empty name means the only one. `field` is where the request names it.

        Raises:
            InvalidRequestError: the name is empty and there are several.
            UnknownModelError: there is none of that name.
        """
        if not name and len(self._by_name) == 1:
            return next(iter(self._by_name.values()))
        if not name:
            raise InvalidRequestError(field, f"is empty, and this server holds several models: {self._names()}")
        if name not in self._by_name:
            raise UnknownModelError(f"no model is named {name[:128]!r}; this server holds {self._names()}")
        return self._by_name[name]

    def all(self) -> list[Pipeline]:
        """All models, in order of their names."""
        return [self._by_name[name] for name in sorted(self._by_name)]

    def _names(self) -> str:
        return ", ".join(sorted(self._by_name))
