"""A small real server for the scripts that hurt one, and the answers that it must give.

It is `groundwire serve` in a process of its own, with the bundle, graph and models of the tests: models so small that
a request costs what the server costs. Every answer can be checked against ONNX Runtime asked directly.
"""

import json
import os
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "server"))

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from processes import ServeProcess
from repositories import WIDTH, write_version
from serving import TEXTS, TRIG, direct_model, until
from tiny_bundle import write_tiny_bundle

from groundwire.inference import service_pb2 as oip
from groundwire.kg import compile_graph, compile_store, open_graph

__all__ = ["ADDER", "LOOKUP", "ROWS", "TABLE", "TEXTS", "TEXT_MODEL", "WIDTH", "SmallServer", "until"]

TEXT_MODEL = "tiny"
ADDER = "adder"  # of the model repository: y = x + 1, [batch, WIDTH]
LOOKUP = "lookup"  # y = TABLE[x], [batch, width]: fails on an index that the table does not have
ROWS = 16
TABLE = np.arange(ROWS, dtype=np.float32) * 3 + 1
TOLERANCE = 1e-6
PAGE = os.sysconf("SC_PAGE_SIZE")
QUERY_SECONDS = 2


class SmallServer:
    """Starts on entering, with more `options` of `groundwire serve`; see `ServeProcess`.

    It serves the bundle `tiny` with its graph and a query store, the model `lookup`, and the model `adder` of a
    repository that clients may change. Raises AssertionError when the server does not start.
    """

    def __init__(self, *options: str) -> None:
        self._options = options
        self.native = "native" in options  # the transport
        self._folder = tempfile.TemporaryDirectory(prefix="groundwire-small-")

    def __enter__(self) -> Self:
        folder = Path(self._folder.name)
        source = folder / "places.trig"
        source.write_text(TRIG, encoding="utf-8")
        compile_graph([source], folder / "graph")
        compile_store([source], folder / "store")
        bundle = write_tiny_bundle(folder / TEXT_MODEL, TEXT_MODEL)
        write_version(folder / "models", ADDER, 1)
        write_lookup(folder / "lookup.onnx")
        self._retriever = open_graph(folder / "graph")
        self.direct = direct_model(bundle, self._retriever)
        self.process = ServeProcess(
            bundle.path, folder / "graph", "--query-store", str(folder / "store"),
            "--query-seconds", str(QUERY_SECONDS),
            "--models", str(folder / "models"), "--model-control", "explicit", "--load-model", "*",
            "--model", f"{LOOKUP}={folder / 'lookup.onnx'}", "--reload-seconds", "0", *self._options,
        )  # fmt: skip
        self.process.__enter__()
        self.address = self.process.address
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.process.__exit__(kind, error, traceback)
        self._retriever.close()
        self._folder.cleanup()

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self.process.process.poll() is None

    def bugs(self) -> list[dict[str, Any]]:
        """Lines of the log that tell of a bug: an exception that nobody expected."""
        # gRPC tells of errors of its own too, such as when a client left before its refusal could be sent.
        raised = [line for line in self.process.lines() if "/grpc/" not in line.get("at", "/grpc/")]
        return self.process.events("bug") + self.process.events("other") + raised

    def resident(self) -> int:
        """Bytes in memory of the process and of those that it started, or 0 when it is gone."""
        return sum(_resident(process) for process in _family(self.process.process.pid))

    def is_prediction(self, text: str, scores: Any) -> bool:
        """Whether the probabilities, in the order of the labels, are those of the model asked directly."""
        expected = self.direct(text)["probabilities"].tolist()
        given = [score.probability for score in scores]
        return len(given) == len(expected) and all(map(_near, given, expected))

    def is_text_answer(self, texts: list[str], response: oip.ModelInferResponse) -> bool:
        """The same for the output `probabilities` of a response that holds no other."""
        [content] = response.raw_output_contents
        found = np.frombuffer(content, np.float32)
        expected = np.concatenate([self.direct(text)["probabilities"] for text in texts])
        return found.shape == expected.shape and bool(np.abs(found - expected).max() <= TOLERANCE)


def text_request(texts: list[str], **fields: Any) -> oip.ModelInferRequest:
    """Ask for the probabilities of texts as tensors."""
    asked = oip.ModelInferRequest(model_name=TEXT_MODEL, **fields)
    asked.inputs.add(name="text", datatype="BYTES", shape=[len(texts), 1])
    asked.outputs.add(name="probabilities")
    encoded = [text.encode() for text in texts]
    asked.raw_input_contents.append(b"".join(len(item).to_bytes(4, "little") + item for item in encoded))
    return asked


def tensor_request(model: str, x: Any, **fields: Any) -> oip.ModelInferRequest:
    """Ask `adder` (float32) or `lookup` (int64) for its answer to the array x."""
    asked = oip.ModelInferRequest(model_name=model, **fields)
    asked.inputs.add(name="x", datatype="FP32" if x.dtype == np.float32 else "INT64", shape=x.shape)
    asked.raw_input_contents.append(x.tobytes())
    return asked


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= TOLERANCE


def write_lookup(path: Path) -> None:
    """Write the model `lookup` as an ONNX file."""
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        LOOKUP,
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", "width"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "width"])],
        [numpy_helper.from_array(TABLE, "table")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def _family(process: int) -> list[int]:
    """A process and its descendants. Those of other threads than the first are children too."""
    children: list[int] = []
    for listing in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children += map(int, listing.read_text().split())
        except OSError:  # the thread has ended
            continue
    return [process, *(one for child in children for one in _family(child))]


def finish(result: dict[str, Any], out: Path | None) -> int:
    """Print the result, write it to a file if one is given, and return the exit code that its `ok` stands for."""
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0 if result["ok"] else 1
