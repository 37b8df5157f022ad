"""Quantized graphs before and after they are rewritten for the CPU: the same numbers, from other operators."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from groundwire.export.cpu_graph import suit_cpu
from groundwire.export.onnx_graph import session

WIDTH, WIDE = 16, 24
MICROSOFT = "com.microsoft"


def constants() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {
        "scale": np.float32(0.02), "zero": np.uint8(117), "weights": rng.integers(-64, 64, (WIDTH, WIDE), np.int8),
        "weight_scale": rng.uniform(0.01, 0.02, WIDE).astype(np.float32), "weight_zero": np.zeros(WIDE, np.int8),
        "bias": rng.normal(size=WIDE).astype(np.float32), "gamma": rng.normal(size=WIDE).astype(np.float32),
        "beta": rng.normal(size=WIDE).astype(np.float32),
    }  # fmt: skip


PRODUCT = [
    helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["x8"]),
    helper.make_node("MatMulInteger", ["x8", "weights", "zero", "weight_zero"], ["whole"], "dense"),
    helper.make_node("Cast", ["whole"], ["cast"], to=TensorProto.FLOAT),
    helper.make_node("Mul", ["scale", "weight_scale"], ["scales"]),
    helper.make_node("Mul", ["cast", "scales"], ["product"]),
]
BIASED = helper.make_node("Add", ["bias", "product"], ["y"])
GELU = helper.make_node("BiasGelu", ["product", "bias"], ["y"], domain=MICROSOFT)
SUM = helper.make_node("Add", ["product", "skip"], ["y"])  # with no vector, but with all that another node gave


def normal(*bias: str) -> onnx.NodeProto:
    inputs = ["product", "skip", "gamma", "beta", *bias]
    return helper.make_node("SkipLayerNormalization", inputs, ["y"], domain=MICROSOFT, epsilon=1e-4)


def tensor(name: str, width: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "tokens", width])


def graph(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str] = ("y",)) -> onnx.ModelProto:
    inputs = [tensor("x", WIDTH), tensor("skip", WIDE)]
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants().items()]
    made = helper.make_graph(nodes, "quantized", inputs, [tensor(name, WIDE) for name in outputs], weights)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=8)


def run(model: onnx.ModelProto) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    feeds = {"x": rng.normal(size=(2, 7, WIDTH)), "skip": rng.normal(size=(2, 7, WIDE))}
    runner = session(model.SerializeToString())
    wanted = {given.name for given in runner.get_inputs()}
    found: list[np.ndarray] = runner.run(
        None, {name: x.astype(np.float32) for name, x in feeds.items() if name in wanted}
    )
    return found


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize(
    ("after", "left"),
    [
        ([BIASED], ["QuantizeLinear", "MatMulIntegerToFloat"]),
        ([GELU], ["QuantizeLinear", "MatMulIntegerToFloat", "Gelu"]),
        ([SUM], ["QuantizeLinear", "MatMulIntegerToFloat", "Add"]),
        ([normal("bias")], ["QuantizeLinear", "MatMulIntegerToFloat", "Add", "LayerNormalization"]),
        ([normal()], ["QuantizeLinear", "MatMulIntegerToFloat", "Add", "LayerNormalization"]),
    ],
    ids=["bias", "gelu", "no bias", "normalised with bias", "normalised"],
)
def test_the_numbers_stay_and_the_slow_operators_go(after: list[onnx.NodeProto], left: list[str]):
    model = graph([*PRODUCT, *after])
    (expected,) = run(model)
    suit_cpu(model)
    onnx.checker.check_model(model)
    assert kinds(model) == left
    (got,) = run(model)
    assert np.abs(expected).max() > 1
    assert np.allclose(got, expected, atol=1e-4)


def test_what_others_read_too_is_left():
    twice = [*PRODUCT, BIASED, helper.make_node("Neg", ["cast"], ["z"])]
    for model in (graph(twice, ["y", "z"]), graph([*PRODUCT, BIASED], ["y", "cast"])):
        expected = run(model)
        suit_cpu(model)
        assert "MatMulInteger" in kinds(model)
        for got, before in zip(run(model), expected, strict=True):
            assert np.array_equal(got, before)


def test_a_bias_is_not_taken_from_a_product_that_others_read_too():
    model = graph([*PRODUCT, BIASED, helper.make_node("Neg", ["product"], ["z"])], ["y", "z"])
    expected = run(model)
    suit_cpu(model)
    assert kinds(model)[1:] == ["MatMulIntegerToFloat", "Add", "Neg"]
    for got, before in zip(run(model), expected, strict=True):
        assert np.allclose(got, before, atol=1e-4)


def test_a_sum_that_is_asked_for_keeps_its_normalisation():
    node = normal("bias")
    node.output.extend(["", "", "sum"])
    model = graph([*PRODUCT, node], ["y", "sum"])
    suit_cpu(model)
    assert "SkipLayerNormalization" in kinds(model)
    assert len(run(model)) == 2
