"""A quantized graph in the operators that ONNX Runtime's CPU kernels run fastest.

The results are the same numbers but for rounding. What is fused for a GPU is not always quicker on a CPU, and what
quantization leaves behind a product is not fused at all:

- SkipLayerNormalization adds up row by row without vector instructions (contrib_ops/cpu/skip_layer_norm.cc); as Add and
  LayerNormalization it takes a quarter of the time.
- MatMulInteger gives integers, which Cast and Mul turn into floats in two passes over memory, and an Add in a third.
  MatMulIntegerToFloat does it while the numbers are in registers. ONNX Runtime fuses these by itself only where scales
  are found at run time.
"""

from collections.abc import Mapping

import onnx
from onnx import helper
from onnxruntime.transformers.onnx_model import OnnxModel

_MICROSOFT = "com.microsoft"
Users = Mapping[str, list[onnx.NodeProto]]


def suit_cpu(model: onnx.ModelProto) -> None:
    """Rewrite in place. A product or a sum that other nodes read too is left as it is."""
    graph = OnnxModel(model)
    for node in graph.get_nodes_by_op_type("SkipLayerNormalization"):
        _split(graph, node)
    users = graph.input_name_to_nodes()
    for node in graph.get_nodes_by_op_type("MatMulInteger"):
        _join(graph, users, node)
    graph.prune_graph()
    graph.topological_sort()  # what was added stands at the end


def _split(graph: OnnxModel, node: onnx.NodeProto) -> None:
    """SkipLayerNormalization(input, skip, gamma, beta, bias) as LayerNormalization(input + bias + skip)."""
    if any(node.output[1:]):  # mean, variance or sum, for training
        return
    name = node.output[0]
    given, skip, gamma, beta, bias = [*node.input, "", ""][:5]
    if bias:
        graph.add_node(helper.make_node("Add", [given, bias], [f"{name}_biased"]))
        given = f"{name}_biased"
    graph.add_node(helper.make_node("Add", [given, skip], [f"{name}_sum"]))
    normal = helper.make_node("LayerNormalization", [f"{name}_sum", gamma, *([beta] if beta else [])], [name])
    normal.attribute.extend(attribute for attribute in node.attribute if attribute.name == "epsilon")
    graph.add_node(normal)
    graph.remove_node(node)


def _join(graph: OnnxModel, users: Users, product: onnx.NodeProto) -> None:
    """MatMulInteger, Cast, Mul with the scales of both sides, and a bias, as MatMulIntegerToFloat."""
    cast = _only_user(graph, users, product, "Cast")
    scaled = _only_user(graph, users, cast, "Mul")
    if cast is None or scaled is None:
        return
    scales = graph.get_parent(scaled, int(scaled.input[0] == cast.output[0]))
    if scales is None or scales.op_type != "Mul":
        return
    left, right, *zeros = product.input
    inputs, output = [left, right, *scales.input, *zeros], scaled.output[0]
    added = _only_user(graph, users, scaled, "Add") or _only_user(graph, users, scaled, "BiasGelu")
    bias = next((name for name in added.input if _is_vector(graph, name)), "") if added is not None else ""
    if added is not None and bias:
        inputs, output = [*inputs, bias], added.output[0]
        if added.op_type == "BiasGelu":
            output += "_biased"
            graph.add_node(helper.make_node("Gelu", [output], added.output, domain=_MICROSOFT))
        graph.remove_node(added)
    graph.remove_nodes([product, cast, scaled])
    graph.add_node(helper.make_node("MatMulIntegerToFloat", inputs, [output], product.name, domain=_MICROSOFT))


def _only_user(graph: OnnxModel, users: Users, node: onnx.NodeProto | None, kind: str) -> onnx.NodeProto | None:
    """Who reads the node's output, if that is one node of this kind and nobody else."""
    if node is None or graph.find_graph_output(node.output[0]) is not None:
        return None
    found = users.get(node.output[0], [])
    return found[0] if len(found) == 1 and found[0].op_type == kind else None


def _is_vector(graph: OnnxModel, name: str) -> bool:
    weights = graph.get_initializer(name)
    return weights is not None and len(weights.dims) == 1
