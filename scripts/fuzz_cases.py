"""Valid requests of every method that the server has, and what a fuzzer makes of them."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from http2_frames import flipped
from small_server import ADDER, LOOKUP, ROWS, TEXT_MODEL, TEXTS, WIDTH, tensor_request, text_request

from groundwire.inference import service_pb2 as oip
from groundwire.v1 import knowledge_pb2, model_pb2, prediction_pb2

V1 = "/groundwire.v1."
OIP = "/inference.GRPCInferenceService/"
STREAMS = (f"{V1}PredictionService/PredictStream", f"{OIP}ModelStreamInfer")
QUERIES = (
    "SELECT ?s ?o WHERE { ?s <http://example.org/population> ?o } ORDER BY ?o LIMIT 5",
    "ASK { <http://example.org/Paris> ?p ?o FILTER(?o > 5 && REGEX(STR(?p), '^http')) }",
    "CONSTRUCT { ?s ?p ?o } WHERE { GRAPH ?g { ?s ?p ?o OPTIONAL { ?o ?q ?r } } }",
    "SELECT (COUNT(DISTINCT ?s) AS ?n) WHERE { { ?s ?p ?o } UNION { ?s ?p ?x . ?x (^<http://example.org/continent>)* ?o"
    " } VALUES ?o { 1 'a'@en } } GROUP BY ?p",
)  # fmt: skip
_NUMBERS = (0, 1, 2, *(2**power + more for power in (5, 6, 7, 8, 15, 31, 63) for more in (-1, 0, 1)), 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, 0.5, 1e-300, 1e300, -1.0, float("nan"), float("inf"), float("-inf"), 0.999999)
_WORDS = (
    "", " ", "\x00", "\u202e\ufeff", "é" * 300, "𝔘𝔫" * 50, "x" * 20_000, "Paris " * 1_500, "../../etc/passwd",
    "%s%n{0}", "\r\nx: y", TEXT_MODEL, ADDER, LOOKUP, "text", "x", "y", "label", "probabilities", "evidence", "1", "-1",
    "timeout", "coverage", "top_k", "probes", "shared_memory_region", "config", "file:1/model.onnx", "BYTES", "FP16",
    "FP32", "INT8", "INT64", "BOOL", "UINT64", "http://example.org/Paris", "urn:x:y", *TEXTS[:3], *QUERIES,
)  # fmt: skip
_KEYS = (
    "authorization", "x", "traceparent", "user-agent-x", "x-request-id", "a.b-c_d", "content-language", "cookie",
    "x-bin", "trace-bin",
)  # fmt: skip
_VALUES = (
    "", "Bearer ", "Bearer " + "x" * 40, "00-" + "0" * 32 + "-" + "f" * 16 + "-01", "y" * 2_000, "%00", "a,b;c=d",
    "~" * 6_000,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Case:
    """A call: its method, its messages (one, but for streams), its metadata, and the seconds that the client waits."""

    path: str
    messages: tuple[bytes, ...]
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout: float | None = None

    @property
    def streaming(self) -> bool:
        """Whether the method takes and gives a stream."""
        return self.path in STREAMS


@lru_cache
def seeds() -> dict[str, tuple[Message, ...]]:
    """Valid requests by the path of their method, all methods of both protocols."""
    v1, k, m = prediction_pb2, knowledge_pb2, model_pb2
    options = v1.PredictOptions(coverage=0.8, contributions=True, probes=2, top_k=3)
    paris = v1.PredictInput(id="1", text=TEXTS[0], entities=["http://example.org/Paris"])
    x = np.ones((2, WIDTH), np.float32)
    index = np.array([[0, 3], [ROWS - 1, 1]], np.int64)
    typed = oip.ModelInferRequest(model_name=LOOKUP)
    typed.inputs.add(name="x", datatype="INT64", shape=[1, 2], contents=oip.InferTensorContents(int64_contents=[1, 2]))
    parameters: dict[str, Any] = {
        "coverage": oip.InferParameter(double_param=0.9), "top_k": oip.InferParameter(int64_param=2),
        "timeout": oip.InferParameter(int64_param=5_000_000), "unknown": oip.InferParameter(string_param="x"),
    }  # fmt: skip
    infer = (
        text_request([TEXTS[0], TEXTS[7]], id="7", parameters=parameters),
        tensor_request(ADDER, x, model_version="1"), tensor_request(LOOKUP, index), typed,
    )  # fmt: skip
    plain: dict[str, tuple[Message, ...]] = {
        "PredictionService/Predict": (
            v1.PredictRequest(inputs=[paris]),
            v1.PredictRequest(model=TEXT_MODEL, inputs=[paris, v1.PredictInput(text=TEXTS[5])], options=options),
        ),
        "PredictionService/PredictStream": (
            v1.PredictStreamRequest(id="1", input=paris),
            v1.PredictStreamRequest(id="2", model=TEXT_MODEL, input=v1.PredictInput(text=TEXTS[1]), options=options),
        ),
        "KnowledgeService/Link": (k.LinkRequest(texts=TEXTS[:3]),),
        "KnowledgeService/Ground": (k.GroundRequest(texts=TEXTS[:3], top_k=4),),
        "KnowledgeService/GetGraph": (k.GetGraphRequest(),),
        "KnowledgeService/Query": tuple(k.QueryRequest(query=q, max_rows=5, timeout_seconds=1) for q in QUERIES),
        "ModelService/ListModels": (m.ListModelsRequest(),),
        "ModelService/GetModel": (m.GetModelRequest(name=TEXT_MODEL),),
    }  # fmt: skip
    found: dict[str, tuple[Message, ...]] = {f"{V1}{name}": messages for name, messages in plain.items()}
    special: dict[str, tuple[Message, ...]] = {
        "ModelInfer": infer,
        "ModelStreamInfer": infer,
        "ModelReady": (oip.ModelReadyRequest(name=TEXT_MODEL),),
        "ModelMetadata": (oip.ModelMetadataRequest(name=ADDER, version="1"),),
        "ModelConfig": (oip.ModelConfigRequest(name=TEXT_MODEL),),
        "ModelStatistics": (oip.ModelStatisticsRequest(name=LOOKUP),),
        "RepositoryModelLoad": (oip.RepositoryModelLoadRequest(model_name=ADDER),),
        "RepositoryModelUnload": (oip.RepositoryModelUnloadRequest(model_name=ADDER),),
    }
    for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        kind: Any = getattr(oip, method.input_type.name)
        found[f"{OIP}{method.name}"] = special.get(method.name, (kind(),))
    return found


def case(rng: random.Random) -> Case:
    """A call made of a valid one, changed in its fields, in its bytes, in its metadata, or not at all."""
    # Half the calls go where the requests are largest.
    popular = (*STREAMS, f"{V1}PredictionService/Predict", f"{OIP}ModelInfer")
    path = rng.choice(popular) if rng.random() < 0.5 else rng.choice(list(seeds()))
    if path.endswith("Unload") and rng.random() < 0.7:
        path = f"{OIP}RepositoryModelLoad"
    count = rng.choice((0, 1, 3, 30)) if path in STREAMS else 1
    messages = tuple(_message(path, rng) for _ in range(count))
    metadata = tuple(_metadata(rng) for _ in range(rng.choice((0, 0, 0, 1, 2, 10))))
    return Case(path, messages, metadata, rng.choice((*(None,) * 17, 1e-4, 0.003, 0.02)))


def _message(path: str, rng: random.Random) -> bytes:
    if rng.random() < 0.02:
        return rng.randbytes(rng.choice((1, 10, 100, 5_000)))
    seed = rng.choice(seeds()[path])
    message = type(seed)()
    message.CopyFrom(seed)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        change_field(message, rng)
    data = message.SerializeToString()
    return damaged(data, rng) if rng.random() < 0.3 else data


def change_field(message: Message, rng: random.Random) -> None:
    """Change one field of a message, or of a message within it."""
    if not message.DESCRIPTOR.fields:
        return
    # Fields that are there more often than those that are not.
    there = [field for field, _ in message.ListFields()]
    field = rng.choice(there) if there and rng.random() < 0.7 else rng.choice(message.DESCRIPTOR.fields)
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _change_map(value, field, rng)
    elif field.is_repeated:
        _change_list(value, field, rng)
    elif field.message_type is not None:
        value.SetInParent()
        change_field(value, rng)
    elif rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        setattr(message, field.name, _scalar(field, value, rng))


def _change_map(values: Any, field: FieldDescriptor, rng: random.Random) -> None:
    key_field, value_field = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    keys = list(values)
    key = rng.choice(keys) if keys and rng.random() < 0.6 else _scalar(key_field, "", rng)
    if key in values and rng.random() < 0.2:
        del values[key]
    elif value_field.message_type is not None:
        change_field(values[key], rng)
    else:
        values[key] = _scalar(value_field, values[key], rng)


def _change_list(values: Any, field: FieldDescriptor, rng: random.Random) -> None:
    nested = field.message_type is not None
    match rng.randrange(5):
        case 0 if len(values):
            del values[rng.randrange(len(values))]
        case 1 if len(values):
            values.extend([rng.choice(values)] * rng.choice((1, 2, 64, 300)))
        case 2:
            del values[:]
        case _ if nested:
            change_field(rng.choice(values) if len(values) and rng.random() < 0.8 else values.add(), rng)
        case 3 if len(values):
            at = rng.randrange(len(values))
            values[at] = _scalar(field, values[at], rng)
        case _:
            values.append(_scalar(field, None, rng))


def _scalar(field: FieldDescriptor, old: Any, rng: random.Random) -> Any:
    """Another value for a field of this type: one that is often got wrong, or one near the old."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return damaged(old or rng.randbytes(8), rng)
        case FieldDescriptor.CPPTYPE_STRING:
            return _text(old or rng.choice(TEXTS), rng)
        case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
            return rng.choice(_FLOATS)  # those that no float can hold become 0 or infinite
        case FieldDescriptor.CPPTYPE_BOOL | FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice((0, 1))
    return _integer(field, rng)


def _integer(field: FieldDescriptor, rng: random.Random) -> int:
    signed = field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
    bits = 32 if field.cpp_type in {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_UINT32} else 64
    value = rng.choice(_NUMBERS) * (rng.choice((1, -1)) if signed else 1)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    return min(max(value, low), high)


def _text(old: str, rng: random.Random) -> str:
    if rng.random() < 0.5:
        return rng.choice(_WORDS)
    place = rng.randrange(len(old) + 1)
    cut: Callable[[], str] = lambda: old[:place] + old[place + rng.randrange(8) :]  # noqa: E731
    put: Callable[[], str] = lambda: old[:place] + _characters(rng) + old[place:]  # noqa: E731
    return rng.choice((cut, put, put, lambda: old[:place] * 3))()[:30_000]


def _characters(rng: random.Random) -> str:
    """A few characters of any plane, surrogates left out, since protobuf has none."""
    points = (
        rng.choice((rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))
        for _ in range(rng.randrange(1, 6))
    )
    return "".join(map(chr, points))


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes that were cut, flipped, repeated or joined with others."""
    place = rng.randrange(len(data) + 1)
    head, tail = data[:place], data[place:]
    match rng.randrange(6):
        case 0:
            tail = b""
        case 1:
            head, tail = flipped(data, rng), b""
        case 2:
            head += rng.randbytes(rng.randrange(1, 12))
        case 3:
            tail = tail[rng.randrange(1, 12) :]
        case 4:
            tail += tail * rng.choice((1, 2, 40))
        case _:  # a length, or a key, that is as large as can be
            head += b"\xff" * rng.choice((1, 4, 9)) + b"\x01"
    return head + tail


def _metadata(rng: random.Random) -> tuple[str, str | bytes]:
    key = rng.choice(_KEYS)
    return (key, rng.randbytes(rng.choice((0, 1, 50, 3_000)))) if key.endswith("-bin") else (key, rng.choice(_VALUES))


def control_cases() -> Sequence[Case]:
    """Every seed as it is."""
    return [Case(path, (message.SerializeToString(),)) for path, messages in seeds().items() for message in messages]
