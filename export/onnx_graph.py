"""From PyTorch to ONNX: trace, fuse, quantize, and open the graph at its word embeddings for attacks.

The traced "core" holds encoder and heads and gives head logits [B, K, C] and pooled features [B, H]. What turns those
into probabilities and uncertainty is added afterwards, in FP32, by `groundwire.export.uncertainty_graph`.
"""

import logging
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.fusion_options import FusionOptions
from onnxruntime.transformers.onnx_model import OnnxModel
from onnxruntime.transformers.optimizer import optimize_model
from torch import Tensor, nn

from groundwire.bundle import INPUTS
from groundwire.export.cpu_graph import suit_cpu
from groundwire.export.errors import StageError
from groundwire.export.model import TextClassifier

OPSET = 17
CORE_OUTPUTS = ("head_logits", "features")
EMBEDDINGS = "word_embeddings"  # input of a graph opened by `expose_embeddings`
Floats = NDArray[np.float32]
Batch = tuple[Tensor, Tensor, Tensor]  # ids, mask, types: [B, T] each
_STEPS = 255  # from the least to the largest of 8 bits


class _Core(nn.Module):
    """Token ids in, head logits and features out."""

    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        out: tuple[Tensor, Tensor] = self.model(self.model.word_embeddings(ids), mask, types)
        return out


def export_core(model: TextClassifier, path: Path) -> None:
    """Trace encoder and heads to `path`, with free batch and token axes, and fuse attention.

    The TorchScript exporter with eager attention gives the pattern that ONNX Runtime's fusion knows; of the dynamo
    exporter's graph it fuses no layer.

    Raises:
        StageError: attention was not fused in every layer.
    """
    model.eval()
    core = _Core(model).eval()
    encoder = model.encoder
    attention = encoder.config._attn_implementation  # type: ignore[union-attr]
    encoder.set_attn_implementation("eager")  # type: ignore[operator]
    # Two rows of different length: with a batch of one, tracing may freeze the axis.
    ids = torch.ones(2, 8, dtype=torch.int64)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    axes = {name: {0: "batch", 1: "tokens"} for name in INPUTS} | {name: {0: "batch"} for name in CORE_OUTPUTS}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation of the exporter, and tracer notes on shapes we make dynamic
        traced = Path(folder) / "traced.onnx"
        try:
            torch.onnx.export(
                core, (ids, mask, torch.zeros_like(ids)), str(traced), input_names=list(INPUTS),
                output_names=list(CORE_OUTPUTS), dynamic_axes=axes, opset_version=OPSET, dynamo=False,
            )  # fmt: skip
        finally:
            encoder.set_attn_implementation(attention)  # type: ignore[operator]
        _fuse(traced, path, encoder.config)


def _fuse(traced: Path, out: Path, config: object) -> None:
    """Fuse attention, layer normalisation and GELU, and count what was fused."""
    layers = int(config.num_hidden_layers)  # type: ignore[attr-defined]
    options = FusionOptions("bert")
    options.enable_embed_layer_norm = False  # `expose_embeddings` needs the embeddings as a tensor of their own
    level = logging.root.level
    try:
        optimized = optimize_model(
            str(traced), model_type="bert", num_heads=int(config.num_attention_heads),  # type: ignore[attr-defined]
            hidden_size=int(config.hidden_size), optimization_options=options,  # type: ignore[attr-defined]
        )  # fmt: skip
    finally:
        logging.root.setLevel(level)
    counts = optimized.get_fused_operator_statistics()
    fused = counts.get("Attention", 0) + counts.get("MultiHeadAttention", 0)
    if fused != layers:
        raise StageError(
            f"ONNX Runtime fused attention in {fused} of {layers} layers, so the model would be slow. "
            "Use a BERT-like encoder, or a version of transformers and onnxruntime listed in constraints.txt."
        )
    optimized.save_model_to_file(str(out))


def quantize_core(path: Path, out: Path, batches: Sequence[Batch]) -> None:
    """INT8 of the encoder: weights by channel, activations in the ranges that `batches` show; the heads stay FP32.

    ONNX Runtime can find the ranges at run time too, but over a whole batch: then what a text gets hangs on the company
    it is in, and whoever sends the company can move it.

    Weights take 7 of their 8 bits. On a processor without VNNI instructions ONNX Runtime adds two products in 16 bits,
    where 2 · 255 · 127 overflows and 2 · 255 · 64 does not: with all 8 bits answers would hang on the processor.
    """
    model = onnx.load(str(path))
    # A Gemm is split into MatMul and Add first, so its part has another name by the time it could be excluded.
    heads = [name for node in model.graph.node if "/heads/" in node.name for name in (node.name, f"{node.name}_MatMul")]
    level = logging.root.level
    try:
        logging.root.setLevel(
            logging.ERROR
        )  # a warning for each call that pre-processing was not run: it was, by `_fuse`
        quantize_dynamic(
            str(path), str(out), weight_type=QuantType.QInt8, per_channel=True, reduce_range=True,
            op_types_to_quantize=["MatMul", "Attention", "Gemm"], nodes_to_exclude=heads,
            extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )  # fmt: skip
    finally:
        logging.root.setLevel(level)
    quantized = onnx.load(str(out))
    if not any(node.op_type in {"MatMulInteger", "QAttention"} for node in quantized.graph.node):
        raise StageError("quantization changed no node: the encoder has no matrix product that ONNX Runtime knows")
    _fix_ranges(quantized, batches)
    suit_cpu(quantized)
    onnx.save(quantized, str(out))


def _fix_ranges(model: onnx.ModelProto, batches: Sequence[Batch]) -> None:
    """Put the ranges that activations have over all `batches` in the place of those found at run time."""
    graph = model.graph
    dynamic = [node for node in graph.node if node.op_type == "DynamicQuantizeLinear"]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    for node in dynamic:
        watched.graph.output.append(helper.make_tensor_value_info(node.output[1], TensorProto.FLOAT, []))
        watched.graph.output.append(helper.make_tensor_value_info(node.output[2], TensorProto.UINT8, []))
    runner = session(watched.SerializeToString())
    wanted = [name for node in dynamic for name in node.output[1:3]]
    low, high = np.zeros(len(dynamic)), np.zeros(len(dynamic))  # zero is always in the range
    for batch in batches:
        found = runner.run(wanted, {name: part.numpy() for name, part in zip(INPUTS, batch, strict=True)})
        scales, zeros = (np.array(found[first::2], dtype=np.float64) for first in (0, 1))
        low, high = np.minimum(low, -zeros * scales), np.maximum(high, (_STEPS - zeros) * scales)
    scales = np.where(high > low, (high - low) / _STEPS, 1.0)
    for node, scale, zero in zip(dynamic, scales, np.rint(-low / scales), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), node.output[1]))
        graph.initializer.append(numpy_helper.from_array(np.array(zero, np.uint8), node.output[2]))
        place = list(graph.node).index(node)
        fixed = helper.make_node("QuantizeLinear", [node.input[0], *node.output[1:3]], [node.output[0]], node.name)
        graph.node.remove(node)
        graph.node.insert(place, fixed)


def halve_core(path: Path, out: Path) -> None:
    """FP16 weights and activations of the encoder; the heads stay FP32, and so do inputs and outputs."""
    model = onnx.load(str(path))
    heads = [node.name for node in model.graph.node if "/heads/" in node.name]
    halved = OnnxModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=heads))
    made = {output: node for node in halved.model.graph.node for output in node.output}
    for node in halved.model.graph.node:
        before = made.get(node.input[0]) if _casts_to(node, TensorProto.FLOAT) else None
        if before is not None and _casts_to(before, TensorProto.FLOAT16):
            # Between two nodes in FP32 a value would be rounded to FP16 and back.
            node.input[0] = before.input[0]
    halved.prune_graph()
    halved.topological_sort()  # the casts stand where they were made
    onnx.save(halved.model, str(out))


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == kind


def expose_embeddings(path: Path, out: Path) -> None:
    """Write the same graph with the word embeddings [B, T, H] as an input instead of the token ids.

    That is how an attack on embeddings is carried over to the very graph that is served.

    Raises:
        StageError: the look-up of the word embeddings can't be found.
    """
    model = onnx.load(str(path))
    lookups = [n for n in model.graph.node if n.op_type == "Gather" and n.input[1] == INPUTS[0]]
    if len(lookups) != 1:
        raise StageError(
            f"{path.name}: found {len(lookups)} look-ups of {INPUTS[0]}, expected the word embeddings alone"
        )
    (lookup,) = lookups
    table = next(t for t in model.graph.initializer if t.name == lookup.input[0])
    width = table.dims[1]
    place = list(model.graph.node).index(lookup)
    model.graph.node.remove(lookup)
    model.graph.initializer.remove(table)
    # In FP16 a table's rows are; the attack's point is FP32, so that its steps are not rounded before they are taken.
    given = helper.make_node("Cast", [EMBEDDINGS], [lookup.output[0]], to=table.data_type)
    model.graph.node.insert(place, given)
    ids = next(i for i in model.graph.input if i.name == INPUTS[0])
    still_used = any(INPUTS[0] in node.input for node in model.graph.node)
    if not still_used:
        model.graph.input.remove(ids)
    model.graph.input.append(helper.make_tensor_value_info(EMBEDDINGS, TensorProto.FLOAT, ["batch", "tokens", width]))
    onnx.save(model, str(out))


def session(model: Path | bytes, threads: int = 0) -> ort.InferenceSession:
    """An ONNX Runtime session on the CPU. `threads` 0 means one for each core."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def check_parity(model: TextClassifier, path: Path, batches: Sequence[Batch], tolerance: float) -> float:
    """Largest difference of head logits between PyTorch and ONNX over `batches` of (ids, mask, types).

    Raises:
        StageError: it is above `tolerance`.
    """
    runner = session(path)
    worst = 0.0
    for ids, mask, types in batches:
        with torch.inference_mode():
            expected = model(model.word_embeddings(ids), mask, types)[0].numpy()
        (actual,) = runner.run(
            [CORE_OUTPUTS[0]], dict(zip(INPUTS, (ids.numpy(), mask.numpy(), types.numpy()), strict=True))
        )
        if not np.isfinite(actual).all():
            raise StageError(
                f"{path.name} gives head logits that are no finite numbers; its weights or ops are at fault"
            )
        worst = max(worst, float(np.abs(expected - actual).max()))
    if not worst <= tolerance:
        raise StageError(
            f"ONNX and PyTorch differ by {worst:.2g} in head logits, more than the gate of {tolerance:.2g}"
        )
    return worst
