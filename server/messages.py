"""Requests that a client sends, and what it refuses because it can't be sent at all."""

from collections.abc import Sequence
from typing import Any, TypeVar

from google.protobuf.message import Message

from groundwire.server.errors import InvalidRequestError
from groundwire.v1 import knowledge_pb2, prediction_pb2

Inputs = Sequence[str] | Sequence[prediction_pb2.PredictInput]
Kind = TypeVar("Kind", bound=Message)

_SURROGATE = "is not valid Unicode: it holds a lone surrogate"


def predict_request(
    inputs: Inputs,
    model: str = "",
    options: prediction_pb2.PredictOptions | None = None,
    model_version: str = "",
) -> prediction_pb2.PredictRequest:
    """A request for texts, or for inputs with ids and entities.

    Raises:
        InvalidRequestError: a text, a name or a version holds a lone surrogate, so it can't be sent.
    """
    items = [message(prediction_pb2.PredictInput, text=item) if isinstance(item, str) else item for item in inputs]
    return message(
        prediction_pb2.PredictRequest, model=model, inputs=items, options=options, model_version=model_version
    )


def query_request(query: str, max_rows: int = 0, timeout_seconds: float = 0.0) -> knowledge_pb2.QueryRequest:
    """A request for the answer to a SPARQL query.

    Raises:
        InvalidRequestError: the query holds a lone surrogate, or `max_rows` is no 32-bit number, so it can't be sent.
    """
    return message(knowledge_pb2.QueryRequest, query=query, max_rows=max_rows, timeout_seconds=timeout_seconds)


def message(kind: type[Kind], **fields: Any) -> Kind:
    """A message of `kind` with these fields.

    Raises:
        InvalidRequestError: a text holds a lone surrogate, or a number is outside what its field can hold.
    """
    try:
        return kind(**fields)
    except ValueError as error:
        for name, value in fields.items():
            _check_field(kind, name, value, error)
        raise


def _check_field(kind: type[Message], name: str, value: Any, cause: ValueError) -> None:
    """Refuse the field at fault, if it is this one."""
    try:
        kind(**{name: value})
    except UnicodeEncodeError:
        raise InvalidRequestError(name, _SURROGATE) from cause
    except ValueError:
        raise InvalidRequestError(name, f"is {value}, which is out of range; the protocol can't carry it") from cause


def encodable(name: str, text: str) -> str:
    """The text, if it can be sent.

    Raises:
        InvalidRequestError: it holds a lone surrogate.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(name, _SURROGATE) from error
    return text
