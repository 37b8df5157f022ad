"""Exceptions of the toolchain."""

from groundwire.errors import GroundwireError


class ExportError(GroundwireError):
    """The root of this package's exceptions."""


class RecipeError(ExportError):
    """A recipe can't be read, or asks for something that is not possible. The message names the key."""


class DataError(ExportError):
    """A data file can't be read. The message names file and line."""


class EncoderError(ExportError):
    """An encoder can't be loaded."""


class StageError(ExportError):
    """A stage failed, or lost more than its gate allows."""
