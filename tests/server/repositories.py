"""Model repositories for the tests: models whose answers tell which version gave them."""

import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 4
BLOCK = 1 << 18  # weights in one tensor: 1 MiB


def write_version(folder: Path, name: str, number: int, value: float | None = None, weights: int = 0) -> Path:
    """Put version `number` of a model at `folder` in one step. It answers y = x + value, by default its number.

    `weights` are so many random numbers of 4 bytes more, which it holds in memory and multiplies by 0.
    """
    node, floats = helper.make_node, TensorProto.FLOAT
    constants = {"value": np.full(WIDTH, number if value is None else value, np.float32)}
    nodes = [node("Add", ["x", "value"], ["y"])]
    if weights:
        # In blocks as large as those of real models, which a C library keeps at hand when they are freed. Which row is
        # only known at a request, so that the tables can't be left out when the model is loaded.
        rng = np.random.default_rng(number)
        rows = min(weights, BLOCK) // WIDTH
        tables = {f"table{i}": rng.normal(size=(rows, WIDTH)).astype(np.float32) for i in range(-(-weights // BLOCK))}
        constants |= tables | {"none": np.array(0, np.float32)}
        nodes = [
            node("ArgMax", ["x"], ["first"], axis=1, keepdims=0),
            *(node("Gather", [table, "first"], [f"row_{table}"]) for table in tables),
            node("Sum", [f"row_{table}" for table in tables], ["row"]),
            node("Mul", ["row", "none"], ["nothing"]),
            node("Add", ["x", "value"], ["sum"]),
            node("Add", ["sum", "nothing"], ["y"]),
        ]
    made = helper.make_graph(
        nodes,
        "adder",
        [helper.make_tensor_value_info("x", floats, ["batch", WIDTH])],
        [helper.make_tensor_value_info("y", floats, ["batch", WIDTH])],
        [numpy_helper.from_array(array, constant) for constant, array in constants.items()],
    )
    out = folder / name / str(number)
    staging = folder / f".{name}-{number}"
    staging.mkdir(parents=True)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, staging / "model.onnx")
    out.parent.mkdir(exist_ok=True)
    if out.exists():
        shutil.rmtree(out)
    staging.rename(out)
    return out


def break_version(folder: Path, name: str, number: int) -> None:
    """Put something at a version that is no model."""
    out = folder / name / str(number)
    out.mkdir(parents=True, exist_ok=True)
    broken = folder / ".broken"
    broken.write_bytes(b"no model")
    broken.replace(out / "model.onnx")
