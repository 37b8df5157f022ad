"""The models that groundwire.v1 answers for: those of the catalog that read texts."""

from contextlib import AbstractContextManager
from typing import cast

from groundwire.server.catalog import Catalog, listed
from groundwire.server.errors import InvalidRequestError, UnknownModelError
from groundwire.server.text_model import TextModel


class Models:
    """The text models of a catalog, as they are now. For one event loop."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def lease(self, name: str, version: str, field: str) -> AbstractContextManager[TextModel]:
        """Keep a model open until the block ends, whatever replaces it.

        An empty name means the only one, an empty version the default one. `field` is where the request has the name.

        Raises:
            InvalidRequestError: the name is empty and there are several models.
            ModelNotReadyError: the model is known, and no version of it answers now.
            UnknownModelError: there is none of that name and version, or it is none that reads texts.
        """
        name = name or self._only(field)
        if not self._catalog.knows(name):
            raise UnknownModelError(f"no model is named {name[:128]!r}; this server holds {self._names()}")
        if not isinstance(self._catalog.get(name, version), TextModel):
            raise UnknownModelError(
                f"{name} reads tensors, not texts, and answers through the Open Inference Protocol; models that "
                f"read texts: {self._names()}"
            )
        return cast("AbstractContextManager[TextModel]", self._catalog.lease(name, version))

    def all(self) -> list[TextModel]:
        """Every version of every text model, in the order of their names; of each the default version last."""
        return [model for model in self._catalog.all() if isinstance(model, TextModel)]

    def _only(self, field: str) -> str:
        names = {model.name for model in self.all()}
        if not names:
            raise UnknownModelError("this server holds no model that reads texts now")
        if len(names) > 1:
            raise InvalidRequestError(field, f"is empty, and this server holds several models: {self._names()}")
        return names.pop()

    def _names(self) -> str:
        return listed({model.name for model in self.all()})
