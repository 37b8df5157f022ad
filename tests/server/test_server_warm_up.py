"""Warm-up: which shapes are run before a model answers, and how long that may take."""

import time
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from processes import ServeProcess
from repositories import write_version

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2 as pb
from groundwire.inference.service_pb2_grpc import GRPCInferenceServiceStub
from groundwire.server.config import Limits
from groundwire.server.runtime import Runtime
from groundwire.server.warm_up import batch_shapes, warm_up


@given(st.integers(1, 300), st.integers(1, 20_000), st.integers(1, 512))
def test_shapes_are_those_that_a_batch_may_have_and_reach_the_limits(rows: int, tokens: int, longest: int) -> None:
    shapes = batch_shapes(Limits(batch_rows=rows, batch_tokens=tokens), longest)
    assert len(set(shapes)) == len(shapes)
    assert all(1 <= r <= rows and 1 <= t <= longest and r * t <= tokens for r, t in shapes)
    sizes = [r * t for r, t in shapes]
    assert sizes == sorted(sizes)
    assert (max(1, min(rows, tokens // longest)), min(longest, tokens)) in shapes
    assert max(r for r, _ in shapes) == min(rows, tokens // max(1, min(longest // 4, tokens)) or 1)


def test_what_would_take_too_long_is_not_begun() -> None:
    ran: list[tuple[int, int]] = []

    def run(rows: int, tokens: int) -> None:
        ran.append((rows, tokens))
        time.sleep(0.001 * rows)  # so a row takes a millisecond at least, and 10,000 of them ten seconds

    assert warm_up(run, [(1, 1), (2, 1), (10_000, 1), (20_000, 1)], 5.0) == 2
    assert ran == [(1, 1), (2, 1)]
    assert warm_up(run, [(1, 1), (1, 1)], 0.0) == 1


@pytest.mark.parametrize("limits", [Limits(), Limits(batch_rows=3, batch_tokens=100)])
def test_a_model_answers_alike_with_and_without(tiny: Bundle, limits: Limits) -> None:
    encoder = tiny.encoder()
    rows = [encoder.encode("Oslo is the capital of Norway.", ())]
    answers = []
    for given_limits in (None, limits):
        runtime = Runtime(tiny, encoder.pad_id, "cpu", 1, given_limits)
        answers.append(runtime.run(rows).logits.tolist())
        runtime.close()
    assert answers[0] == answers[1]


def test_it_is_logged_and_can_be_left_out(tiny: Bundle, graph: Path, tmp_path: Path) -> None:
    adder = write_version(tmp_path, "adder", 1)
    plain = ("--model", f"adder={adder}")
    most = {"adder": 4, "tiny": len(batch_shapes(Limits(), tiny.manifest.inputs.max_tokens))}
    for options in ((), ("--no-warm-up",)):
        with ServeProcess(tiny.path, graph, *plain, *options) as server:
            loaded = server.wait_for("model loaded", 2)
        for line in loaded:
            if options:
                assert line["warmed_up"] == 0
            else:
                assert 1 <= line["warmed_up"] <= most[line["model"]]


def test_a_model_that_refuses_zeros_is_served_without(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Sub", ["x", "nine"], ["less"]), helper.make_node("Gather", ["table", "less"], ["y"])],
        "from_nine_on",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [
            numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "table"),
            numpy_helper.from_array(np.array(9), "nine"),
        ],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    options = ("--model", f"nine={path}")
    with ServeProcess(None, None, *options) as server, grpc.insecure_channel(server.address) as channel:
        [loaded] = server.wait_for("model loaded", 1)
        assert loaded["warmed_up"] == 0
        request = pb.ModelInferRequest(model_name="nine", raw_input_contents=[np.array([10]).tobytes()])
        request.inputs.add(name="x", datatype="INT64", shape=[1, 1])
        answer = GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=60)
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [2.0]
