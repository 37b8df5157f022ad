"""Exceptions of the serving side. None knows of gRPC: `groundwire.server.status` gives each its status code."""

from groundwire.errors import GroundwireError


class ServerError(GroundwireError):
    """The root of this package's exceptions."""


class ConfigurationError(ServerError):
    """The server can't start with what it was given: two bundles of one name, an address in use."""


class ProviderError(ServerError):
    """An execution provider was asked for that this machine does not have, or that can't run the model."""


class InvalidRequestError(ServerError):
    """A request breaks a rule of the interface.

    Args:
        field: path of the field at fault, such as `inputs[3].text`; empty when the message as a whole is at fault.
        description: what is wrong with it and what is right.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


class UnknownModelError(ServerError):
    """A request names a model that is not loaded."""


class UnknownServiceError(ServerError):
    """Health is asked of a service that this server does not offer."""


class ModelNotReadyError(ServerError):
    """A request names a model of the repository that is not loaded, or could not be."""


class ModelLoadError(ServerError):
    """A model of the repository can't be served as it lies there; what answered before goes on."""


class UnsupportedError(ServerError):
    """A request asks for a part of a protocol that this server does not offer."""


class FixedModelsError(ServerError):
    """A request would load or unload a model, and this server holds those that it was started with."""


class QueueFullError(ServerError):
    """More rows wait for a model than its queue holds.

    Args:
        retry_after: seconds after which the queue should have emptied, judged by the model's recent speed.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnauthenticatedError(ServerError):
    """A call carries no token, or none that is good here."""


class RateLimitedError(ServerError):
    """A client calls more often than the server lets one client call.

    Args:
        retry_after: seconds after which the next call is let in.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ShuttingDownError(ServerError):
    """The server answers what it has accepted and accepts nothing more."""


class DeadlineExceededError(ServerError):
    """The request's deadline passed: before its turn came, so it was not run; or a query ran too long."""


class ForbiddenQueryError(ServerError):
    """A SPARQL query would write, or reach the network."""


class QueryTooLargeError(ServerError):
    """The answer to a SPARQL query, or what its evaluation needs, is more than one query may take."""


class QueryFailedError(ServerError):
    """A SPARQL query could not be evaluated, for a reason that lies not in the query."""


class InferenceError(ServerError):
    """The model failed on a batch, or gave an output that is not a number."""
