"""Exceptions of the knowledge graph package."""

from groundwire.errors import GroundwireError


class GraphError(GroundwireError):
    """The root of this package's exceptions."""


class SourceError(GraphError):
    """RDF could not be read: the message names the file and, where the parser knows it, the line."""


class CompiledGraphError(GraphError):
    """A compiled graph is missing, incomplete, damaged, or of a format version that is not known."""


class UnknownEntityError(GraphError):
    """An IRI that was asked for is not an entity of the graph."""


class ValidationError(GraphError):
    """A graph violates the SHACL shapes that it was to be held to, or the shapes can't be used."""


class GraphWarning(UserWarning):
    """Something about a graph that is handled, and that its owner should know."""
