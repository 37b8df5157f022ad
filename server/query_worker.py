"""The process that evaluates SPARQL queries, one after another: `python -m groundwire.server.query_worker`.

Oxigraph can't be interrupted (an aggregate over a cross product is one call that runs for hours), so evaluation has a
process that can be killed. Its first line on stdin is a JSON object with `path` and `memory_bytes`; then come
requests, each a line of JSON with `query`, `rows`, `answer_bytes` and `seconds`. Each answer, the first one saying that
the store is open, is one byte (an `Outcome`), four bytes of length, and a message or a text. The end of stdin ends the
process.

It imports neither `groundwire.kg` nor rdflib: starting is fast, and rdflib's SPARQL parser is never used.
"""

import json
import os
import re
import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, BinaryIO

import pyoxigraph as ox

from groundwire.server.sandbox import end_with_parent, limit_memory, limit_time, without_network
from groundwire.v1 import knowledge_pb2

HEADER = struct.Struct(">BI")
_PLACE = re.compile(r"\Aerror at (\d+):(\d+):")  # as Oxigraph writes it
GRACE_SECONDS = 5.0  # after its time, a process that its server did not end ends itself


class Outcome(IntEnum):
    """What an answer is."""

    READY = 0  # text: JSON with `isolated`, whether the kernel refuses sockets
    ANSWER = 1  # a QueryResponse without versions
    INVALID = 2  # text: what the parser says of the query
    TOO_LARGE = 3  # text: which limit the answer is over
    FAILED = 4  # text: why the answer can't be given
    UNREADABLE = 5  # text, which may name files: why the store can't be opened or read


class _TooLargeError(Exception):
    """The answer has more bytes than the request allows."""


def main() -> int:
    """Serve requests until stdin ends."""
    source = sys.stdin.buffer
    # What a library may print must not come between answers.
    sink = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    end_with_parent()
    settings = json.loads(source.readline())
    isolated = without_network()
    limit_memory(settings["memory_bytes"])
    try:
        store = ox.Store.read_only(settings["path"])
    except OSError as error:
        _send(sink, Outcome.UNREADABLE, f"{Path(settings['path']).parent} can't be opened: {error}".encode())
        return 1
    _send(sink, Outcome.READY, json.dumps({"isolated": isolated}).encode())
    for line in source:
        request = json.loads(line)
        limit_time(request["seconds"] + GRACE_SECONDS)
        outcome, content = evaluate(store, request["query"], request["rows"], request["answer_bytes"])
        limit_time(0)
        _send(sink, outcome, content)
    return 0


def evaluate(store: ox.Store, query: str, rows: int, answer_bytes: int) -> tuple[Outcome, bytes]:
    """Evaluate a query on a store that is only read. At most `rows` rows or triples, `answer_bytes` in all."""
    try:
        result = store.query(query)
        response = knowledge_pb2.QueryResponse()
        if isinstance(result, ox.QueryBoolean):
            response.boolean = bool(result)
        elif isinstance(result, ox.QueryTriples):
            response.triples.SetInParent()
            _take(result, response, response.triples.triples, _triple, rows, answer_bytes)
        else:
            response.solutions.variables.extend(variable.value for variable in result.variables)
            _take(result, response, response.solutions.rows, _row, rows, answer_bytes)
        content = response.SerializeToString()
    except SyntaxError as error:
        return Outcome.INVALID, _PLACE.sub(r"line \1, column \2:", str(error.msg)).encode()
    except _TooLargeError as error:
        return Outcome.TOO_LARGE, str(error).encode()
    except MemoryError:
        return Outcome.TOO_LARGE, b"its evaluation needs more memory than one query may take"
    except (OSError, RuntimeError, ValueError) as error:
        if "custom function" in str(error):  # one that the store does not know: the query is at fault
            return Outcome.INVALID, b"it calls a function that this server does not know, or with wrong arguments"
        outcome = Outcome.FAILED if isinstance(error, ValueError) else Outcome.UNREADABLE
        return outcome, f"the query could not be evaluated: {error}".encode()
    return Outcome.ANSWER, content


def _take(result: Any, response: knowledge_pb2.QueryResponse, into: Any, convert: Any, rows: int, size: int) -> None:
    taken = 0
    for count, item in enumerate(result):
        if count == rows:
            response.truncated = True
            return
        message = convert(item)
        taken += message.ByteSize() + 4
        if taken > size:
            raise _TooLargeError(
                f"the answer is larger than {size} bytes; ask for less with LIMIT, or for fewer variables"
            )
        into.append(message)


def _row(solution: Sequence[Any]) -> knowledge_pb2.QueryRow:
    return knowledge_pb2.QueryRow(terms=[_term(value) for value in solution])


def _triple(triple: ox.Triple) -> knowledge_pb2.QueryTriple:
    return knowledge_pb2.QueryTriple(
        subject=_term(triple.subject), predicate=_term(triple.predicate), object=_term(triple.object)
    )


def _term(value: Any) -> knowledge_pb2.Term:
    if isinstance(value, ox.NamedNode):
        return knowledge_pb2.Term(iri=value.value)
    if isinstance(value, ox.BlankNode):
        return knowledge_pb2.Term(blank_node=value.value)
    if isinstance(value, ox.Literal):
        literal = knowledge_pb2.Literal(
            lexical_form=value.value, datatype=value.datatype.value, language=(value.language or "").lower()
        )
        return knowledge_pb2.Term(literal=literal)
    if value is None:
        return knowledge_pb2.Term()
    raise ValueError("the answer holds a triple inside a triple (RDF 1.2), which is not supported")


def _send(sink: BinaryIO, outcome: Outcome, content: bytes) -> None:
    sink.write(HEADER.pack(outcome, len(content)) + content)
    sink.flush()


if __name__ == "__main__":
    sys.exit(main())
