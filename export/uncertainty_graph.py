"""Calibration and uncertainty as standard ONNX operators behind the encoder, so that one pass gives all of it.

B rows, K heads, C labels, H features. From head logits z [B, K, C] and features f [B, H]:

    p_k = softmax(z_k / T),  p = mean_k p_k                                temperature: Guo et al. 2017
    entropy = H(p),  mutual information = H(p) - mean_k H(p_k)             Depeweg et al. 2018
    energy = -T log Σ exp(mean_k z_k / T)                                  Liu et al. 2020
    distance = min_c d_c(f) - d_0(f)                                       relative Mahalanobis: Ren et al. 2021

d_c is the squared Mahalanobis distance to the mean of label c under the covariance that all labels share, d_0 the one
to the mean of all data under the covariance of all data. Both are evaluated as lengths after a linear map (whitening).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from groundwire.bundle import OUTPUTS
from groundwire.export.onnx_graph import CORE_OUTPUTS, OPSET

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FeatureStatistics:
    """Gaussian fits: `whiten_*` [H, H] map features to unit covariance; `centres` [C, H], `centre` [H] are mapped."""

    whiten_label: Floats
    whiten_all: Floats
    centres: Floats
    centre: Floats


def fit_features(features: Floats, labels: NDArray[np.int64], num_labels: int) -> FeatureStatistics:
    """Fit the Gaussians on `features` [N, H] of training data with `labels` [N].

    The covariances are shrunk towards a multiple of the identity (Ledoit and Wolf 2004), so few examples are enough to
    invert them. A label without examples gets the mean of all.
    """
    from sklearn.covariance import LedoitWolf  # noqa: PLC0415  # a second to import, needed here only

    mean = features.mean(axis=0)
    means = np.stack([features[labels == c].mean(axis=0) if (labels == c).any() else mean for c in range(num_labels)])

    def whitening(centred: Floats) -> Floats:
        precision = LedoitWolf(assume_centered=True).fit(centred).precision_
        values, vectors = np.linalg.eigh(precision)
        whiten: Floats = vectors * np.sqrt(np.maximum(values, 0.0))
        return whiten

    by_label, overall = whitening(features - means[labels]), whitening(features - mean)
    return FeatureStatistics(by_label, overall, means @ by_label, mean @ overall)


def add_uncertainty(core: onnx.ModelProto, temperature: float, statistics: FeatureStatistics) -> onnx.ModelProto:
    """Append calibration and uncertainty to the core; the outputs become those of `groundwire.bundle.OUTPUTS`."""
    num_labels, hidden = statistics.centres.shape
    constants: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def constant(name: str, value: Floats | float) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, dtype=np.float32), f"uncertainty.{name}"))
        return f"uncertainty.{name}"

    def axes(*values: int) -> str:
        name = "uncertainty.axes" + "_".join(str(v) for v in values).replace("-", "m")
        if all(t.name != name for t in constants):
            constants.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"uncertainty.{op}_{len(nodes)}"
        nodes.append(helper.make_node(op, list(inputs), [out], name=f"uncertainty/{out}", **attributes))
        return out

    def mean_over_heads(tensor: str, out: str | None = None) -> str:
        return node("ReduceMean", tensor, out=out, axes=[1], keepdims=0)

    def entropy(probabilities: str, out: str | None = None) -> str:
        logs = node("Log", node("Max", probabilities, constant(f"tiny{len(nodes)}", 1e-12)))
        return node("Neg", node("ReduceSum", node("Mul", probabilities, logs), axes(-1), keepdims=0), out=out)

    def squared_distance(features: str, whiten: Floats, centres: Floats, name: str) -> str:
        """[B, H] -> [B, number of centres]: |fW|² - 2 fW·m + |m|²."""
        mapped = node("MatMul", features, constant(f"whiten_{name}", whiten))
        length = node("ReduceSum", node("Mul", mapped, mapped), axes(-1), keepdims=1)
        cross = node("MatMul", mapped, constant(f"centres_{name}", -2.0 * centres.T))
        return node("Add", node("Add", length, cross), constant(f"lengths_{name}", np.square(centres).sum(axis=1)))

    head_logits, features = CORE_OUTPUTS
    logits, probabilities, head_probabilities, entropy_out, information, energy, distance = OUTPUTS
    t = constant("temperature", temperature)
    mean_over_heads(head_logits, out=logits)
    node("Softmax", node("Div", head_logits, t), out=head_probabilities, axis=-1)
    mean_over_heads(head_probabilities, out=probabilities)
    entropy(probabilities, out=entropy_out)
    expected = mean_over_heads(entropy(head_probabilities))
    node("Max", node("Sub", entropy_out, expected), constant("zero", 0.0), out=information)
    log_sum = node("ReduceLogSumExp", node("Div", logits, t), axes=[1], keepdims=0)
    node("Neg", node("Mul", log_sum, t), out=energy)
    near = node("ReduceMin", squared_distance(features, statistics.whiten_label, statistics.centres, "label"),
                axes=[1], keepdims=0)  # fmt: skip
    background = node(
        "Squeeze", squared_distance(features, statistics.whiten_all, statistics.centre[None], "all"), axes(1)
    )
    node("Sub", near, background, out=distance)

    model = onnx.ModelProto()
    model.CopyFrom(core)
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(constants)
    heads = next(o for o in core.graph.output if o.name == head_logits).type.tensor_type.shape.dim[1].dim_value
    shapes = {logits: ["batch", num_labels], probabilities: ["batch", num_labels],
              head_probabilities: ["batch", heads or "heads", num_labels]}  # fmt: skip
    del model.graph.output[:]
    model.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name, ["batch"])) for name in OUTPUTS
    )
    del model.graph.value_info[:]  # stale after the changes; ONNX Runtime infers it
    onnx.checker.check_model(model)
    assert hidden == statistics.whiten_label.shape[0]
    assert OPSET < 18, "from opset 18 the reductions take their axes as inputs"
    return model
