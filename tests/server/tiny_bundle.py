"""A real bundle made by hand: a few linear layers over a mean of word vectors, with every output of a real one.

It is deterministic, loads in milliseconds, and its answers depend on every token, so that mixed-up rows would show.
"""

import hashlib
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from groundwire import bundle
from groundwire.bundle import Bundle, seal_bundle
from groundwire.conformal import LAC, fit
from groundwire.kg.known_words import KnownWords
from groundwire.v1 import bundle_pb2

LABELS = ("supported", "refuted", "unknown")
HEADS = 3
HIDDEN = 16
TEMPERATURE = 1.5
MAX_TOKENS = 192
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def write_tiny_bundle(
    out: Path,
    name: str = "tiny",
    *,
    seed: int = 0,
    top_k: int = 8,
    require_grounding: bool = True,
    max_distance_quantile: float = 0.99,
    scale: float = 6.0,
    words: KnownWords | None = None,
) -> Bundle:
    """Write a bundle to `out`. Another `seed` gives another model; a greater `scale` a surer one.

    With `words` the texts are put right with them.
    """
    manifest = bundle_pb2.BundleManifest(
        format_version=bundle.FORMAT_VERSION,
        name=name,
        task=bundle.TASK,
        labels=LABELS,
        inputs=bundle_pb2.InputSpec(
            max_tokens=MAX_TOKENS,
            top_k=top_k,
            text_normalisation=bundle_pb2.TEXT_NORMALISATION_SPELL if words else None,
            tensors=[
                bundle_pb2.TensorSpec(name=tensor, dtype="int64", shape=["batch", "tokens"]) for tensor in bundle.INPUTS
            ],
        ),
        calibration=bundle_pb2.Calibration(temperature=TEMPERATURE, examples=200, fitted_on="0" * 64),
        conformal=[_conformal(seed)],
        out_of_distribution=bundle_pb2.OutOfDistribution(distance_quantiles=np.linspace(0, 6, 101).tolist()),
        robust_margin=bundle_pb2.RobustMargin(margin=0.3, share=0.95, attack="pgd", norm="linf", epsilon=0.01, steps=5),
        policy=bundle_pb2.DecisionPolicy(
            coverage=0.9,
            method=LAC,
            max_distance_quantile=max_distance_quantile,
            require_grounding=require_grounding,
        ),
        encoder=bundle_pb2.Encoder(name="tiny", hidden_size=HIDDEN, layers=0, parameters=1, weights="float32"),
        provenance=bundle_pb2.Provenance(seed=seed, created="2026-01-01T00:00:00Z"),
    )
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        staging = Path(folder) / "bundle"
        staging.mkdir()
        tokenizer = tiny_tokenizer()
        (staging / bundle.TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
        if words:
            (staging / bundle.WORDS).write_bytes(words.to_bytes())
        model = tiny_model(tokenizer.get_vocab_size(), seed, scale).SerializeToString()
        (staging / bundle.MODEL).write_bytes(model)
        certificate = bundle_pb2.Certificate(
            format_version=bundle.CERTIFICATE_FORMAT_VERSION,
            hardware="any",
            stages=[bundle_pb2.Stage(name="onnx-float32", artifact=hashlib.sha256(model).hexdigest())],
        )
        (staging / bundle.CERTIFICATE).write_text(bundle.to_json(certificate), encoding="utf-8")
        return seal_bundle(staging, manifest, out)


def tiny_tokenizer() -> Tokenizer:
    """WordPiece over letters and digits, so that every word has ids of its own and no vocabulary is needed."""
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "|", ":", ";", ",", ".", "'", "-"]
    vocabulary = {token: i for i, token in enumerate([*tokens, *_LETTERS, *("##" + letter for letter in _LETTERS)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=50))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    return tokenizer


def tiny_model(vocabulary: int, seed: int, scale: float = 6.0) -> onnx.ModelProto:
    """Mean of token and type vectors -> K linear heads -> the seven outputs. B rows and T tokens are free."""
    rng = np.random.default_rng(seed)
    constants = {
        "words": rng.normal(size=(vocabulary, HIDDEN)),
        "types": rng.normal(size=(2, HIDDEN)),
        "heads": rng.normal(size=(HIDDEN, HEADS * len(LABELS))) * scale / HIDDEN**0.5,
        "temperature": np.array(TEMPERATURE),
        "minus_temperature": np.array(-TEMPERATURE),
        "tiny": np.array(1e-12),
        "minus_one": np.array(-1.0),
    }
    integers = {
        "by_head": np.array([0, HEADS, len(LABELS)]),
        "last": np.array([-1]),
        "axis_1": np.array([1]),
        "axes_12": np.array([1, 2]),
    }
    node = helper.make_node
    nodes = [
        node("Gather", ["words", "input_ids"], ["word_vectors"]),
        node("Gather", ["types", "token_type_ids"], ["type_vectors"]),
        node("Add", ["word_vectors", "type_vectors"], ["vectors"]),
        node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask", "last"], ["mask_3d"]),
        node("Mul", ["vectors", "mask_3d"], ["masked"]),
        node("ReduceSum", ["masked", "axis_1"], ["total"], keepdims=0),
        node("ReduceSum", ["mask", "axis_1"], ["count"], keepdims=1),
        node("Div", ["total", "count"], ["pooled"]),
        node("MatMul", ["pooled", "heads"], ["flat"]),
        node("Reshape", ["flat", "by_head"], ["head_logits"]),
        node("ReduceMean", ["head_logits", "axis_1"], ["logits"], keepdims=0),
        node("Div", ["head_logits", "temperature"], ["scaled"]),
        node("Softmax", ["scaled"], ["head_probabilities"], axis=-1),
        node("ReduceMean", ["head_probabilities", "axis_1"], ["probabilities"], keepdims=0),
        *_entropy("probabilities", "entropy", "axis_1"),
        *_entropy("head_probabilities", "head_entropy_sum", "axes_12"),
        node("Div", ["head_entropy_sum", "head_count"], ["head_entropy"]),
        node("Sub", ["entropy", "head_entropy"], ["mutual_information"]),
        node("Div", ["logits", "temperature"], ["scaled_logits"]),
        node("ReduceLogSumExp", ["scaled_logits", "axis_1"], ["log_sum"], keepdims=0),
        node("Mul", ["log_sum", "minus_temperature"], ["energy"]),
        node("ReduceL2", ["pooled", "axis_1"], ["distance"], keepdims=0),
    ]
    constants["head_count"] = np.array(float(HEADS))
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()]
    initializers += [numpy_helper.from_array(value.astype(np.int64), name) for name, value in integers.items()]
    labels = len(LABELS)
    shapes = {"logits": [labels], "probabilities": [labels], "head_probabilities": [HEADS, labels]}
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in bundle.INPUTS],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shapes.get(name, [])])
            for name in bundle.OUTPUTS
        ],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _entropy(source: str, target: str, axes: str) -> list[onnx.NodeProto]:
    node = helper.make_node
    return [
        node("Add", [source, "tiny"], [f"{target}_safe"]),
        node("Log", [f"{target}_safe"], [f"{target}_log"]),
        node("Mul", [source, f"{target}_log"], [f"{target}_terms"]),
        node("ReduceSum", [f"{target}_terms", axes], [f"{target}_negative"], keepdims=0),
        node("Mul", [f"{target}_negative", "minus_one"], [target]),
    ]


def _conformal(seed: int) -> bundle_pb2.ConformalQuantiles:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([0.4, 0.4, 0.4], size=200)
    labels = np.array([rng.choice(3, p=row) for row in probabilities], dtype=np.int64)
    return fit(probabilities, labels, LAC)
