"""The rules of the interface that a request must keep, each refusal naming the field at fault."""

import re
from collections.abc import Sequence

from groundwire.server.config import MAX_ENTITIES, MAX_ID, MAX_PROBES, MAX_TOP_K, Limits
from groundwire.server.errors import InvalidRequestError
from groundwire.server.priorities import check_priority
from groundwire.v1 import prediction_pb2

# RFC 3987: a scheme, then anything but what would have to be escaped.
_IRI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20\x7f<>\"{}|\\^`]+")


def check_inputs(inputs: Sequence[prediction_pb2.PredictInput], limits: Limits, path: str = "inputs") -> None:
    """Refuse a request whose inputs are too few, too many, blank, too long, or name entities that are no IRIs.

    Raises:
        InvalidRequestError: with the first field at fault.
    """
    check_count(len(inputs), limits, path)
    for index, item in enumerate(inputs):
        check_input(item, limits, f"{path}[{index}]")


def check_input(item: prediction_pb2.PredictInput, limits: Limits, path: str) -> None:
    """Refuse one input; see `check_inputs`."""
    check_id(item.id, f"{path}.id")
    check_text(item.text, limits, f"{path}.text")
    if len(item.entities) > MAX_ENTITIES:
        raise InvalidRequestError(f"{path}.entities", f"holds {len(item.entities)} IRIs; at most {MAX_ENTITIES}")
    for position, entity in enumerate(item.entities):
        if _IRI.fullmatch(entity) is None:
            raise InvalidRequestError(f"{path}.entities[{position}]", "is not an absolute IRI, such as http://…/Q64")


def check_id(name: str, path: str) -> None:
    """Refuse an id that is too long: it is kept until its answer was read."""
    if len(name) > MAX_ID:
        raise InvalidRequestError(path, f"has {len(name)} code points; at most {MAX_ID} are taken")


def check_texts(texts: Sequence[str], limits: Limits) -> None:
    """Refuse too few or too many texts, and blank or too long ones.

    Raises:
        InvalidRequestError: with the first field at fault.
    """
    check_count(len(texts), limits, "texts")
    for index, text in enumerate(texts):
        check_text(text, limits, f"texts[{index}]")


def check_count(count: int, limits: Limits, path: str) -> None:
    """Refuse none, or more than the batch limit."""
    if not 1 <= count <= limits.inputs:
        raise InvalidRequestError(path, f"holds {count} items; 1 to {limits.inputs} are taken in one request")


def check_text(text: str, limits: Limits, path: str) -> None:
    """Refuse a blank or too long text."""
    if len(text) > limits.text_length:
        raise InvalidRequestError(
            path, f"has {len(text)} code points; at most {limits.text_length} are taken. Send it in parts"
        )
    if not text.strip():
        raise InvalidRequestError(path, "is blank")


def check_top_k(top_k: int, path: str) -> None:
    """Refuse more triples than the interface allows."""
    if top_k > MAX_TOP_K:
        raise InvalidRequestError(path, f"is {top_k}; 0 to {MAX_TOP_K} are allowed")


def check_options(options: prediction_pb2.PredictOptions, model_top_k: int, limits: Limits) -> None:
    """Refuse options out of range, or evidence for a model that reads the text alone (`model_top_k` 0).

    Raises:
        InvalidRequestError: with the first field at fault.
    """
    if options.HasField("coverage") and not 0 < options.coverage < 1:
        raise InvalidRequestError(
            "options.coverage", f"is {options.coverage}; it must lie between 0 and 1, ends excluded"
        )
    check_top_k(options.top_k, "options.top_k")
    if options.top_k and not model_top_k:
        raise InvalidRequestError("options.top_k", "this model reads the text alone; leave it 0")
    if options.probes > MAX_PROBES:
        raise InvalidRequestError("options.probes", f"is {options.probes}; 0 to {MAX_PROBES} are allowed")
    if options.priority:
        check_priority(options.priority, limits.priority_levels, "options.priority")
