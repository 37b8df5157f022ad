"""Exceptions of the knowledge graph package."""

from groundwire.errors import GroundwireError


class GraphError(GroundwireError):
    """The root of this package's exceptions."""


class SourceError(GraphError):
    """RDF could not be read: the message names the file and, where the parser knows it, the line."""


class CompiledGraphError(GraphError):
    """A compiled graph is missing, incomplete, damaged, or of a format version that is not known."""


class StoreError(GraphError):
    """A query store is missing, damaged, or of a format version that is not known."""


class GraphUnavailableError(GraphError):
    """The store behind a live graph can't be reached, failed, or gave an answer that makes no sense: it is named."""


class GraphTimeoutError(GraphError):
    """The store behind a live graph took longer than the time limit of the request."""


class UnknownEntityError(GraphError):
    """An IRI that was asked for is not an entity of the graph."""


class ValidationError(GraphError):
    """A graph violates the SHACL shapes that it was to be held to, or the shapes can't be used."""


class GraphWarning(UserWarning):
    """Something about a graph that is handled, and that its owner should know."""
