"""A text model as tensors: texts in, labels, probabilities, uncertainty and evidence out, N rows each.

The answers are those of `groundwire.v1`, from the same pipeline.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from groundwire.server.config import Limits
from groundwire.server.errors import InvalidRequestError
from groundwire.server.pipeline import Pipeline
from groundwire.server.priorities import requested_priority
from groundwire.server.servable import Parameters
from groundwire.server.statistics import Statistics
from groundwire.server.tensors import BYTES, Array, TensorSpec
from groundwire.v1 import prediction_pb2

TEXT = "text"
GRAPH_VERSION = "graph_version"
Prediction = prediction_pb2.Prediction


def _short(name: str, prefix: str) -> bytes:
    return name.removeprefix(prefix).lower().encode()


def _evidence(prediction: Prediction) -> bytes:
    """The triples read, as a JSON list of objects with text, graph and relevance."""
    return json.dumps(
        [{"text": triple.text, "graph": triple.graph, "relevance": triple.relevance} for triple in prediction.evidence],
        ensure_ascii=False,
    ).encode()


# Each output with one value a row: its datatype, and where the value is in the prediction.
_COLUMNS: Mapping[str, tuple[str, Callable[[Prediction], Any]]] = {
    "label": (BYTES, lambda p: p.label.encode()),
    "probability": ("FP32", lambda p: p.probability),
    "decision": (BYTES, lambda p: _short(prediction_pb2.Decision.Name(p.decision), "DECISION_")),
    "abstain_reasons": (
        BYTES,
        lambda p: b",".join(
            _short(prediction_pb2.AbstainReason.Name(reason), "ABSTAIN_REASON_") for reason in p.abstain_reasons
        ),
    ),
    "entropy": ("FP32", lambda p: p.uncertainty.entropy),
    "mutual_information": ("FP32", lambda p: p.uncertainty.model.mutual_information),
    "agreement": ("FP32", lambda p: p.uncertainty.model.agreement),
    "energy": ("FP32", lambda p: p.uncertainty.model.energy),
    "distance": ("FP32", lambda p: p.uncertainty.model.distance),
    "distance_quantile": ("FP32", lambda p: p.uncertainty.model.distance_quantile),
    "margin": ("FP32", lambda p: p.uncertainty.sensitivity.margin),
    "covered": ("BOOL", lambda p: p.uncertainty.sensitivity.covered),
    "flip_rate": (
        "FP32",
        lambda p: p.uncertainty.sensitivity.flip_rate if p.uncertainty.sensitivity.probes else float("nan"),
    ),
    "coverage": ("FP32", lambda p: p.uncertainty.knowledge.coverage),
    "link_confidence": ("FP32", lambda p: p.uncertainty.knowledge.link_confidence),
    "not_in_graph": ("BOOL", lambda p: p.uncertainty.knowledge.not_in_graph),
    "evidence": (BYTES, _evidence),
}
_DTYPES: Mapping[str, type[Any]] = {BYTES: object, "FP32": np.float32, "BOOL": np.bool_}


class TextModel:
    """A pipeline as a `Servable`. Outputs beside the columns above, C labels in the manifest's order:

    `probabilities` FP32 [N, C], `logits` FP32 [N, C], `prediction_set` BOOL [N, C], `graph_version` BYTES [N, 1].
    Name and version are the manifest's unless they are given.
    """

    def __init__(self, pipeline: Pipeline, name: str = "", version: str = "") -> None:
        manifest = pipeline.bundle.manifest
        self._pipeline = pipeline
        self._labels = list(manifest.labels)
        labels = len(self._labels)
        self.name = name or manifest.name
        self.version = version or manifest.version
        self.inputs = (TensorSpec(TEXT, BYTES, (-1, 1)),)
        rows = [TensorSpec(name, datatype, (-1, 1)) for name, (datatype, _) in _COLUMNS.items()]
        by_label = [
            TensorSpec("probabilities", "FP32", (-1, labels)),
            TensorSpec("logits", "FP32", (-1, labels)),
            TensorSpec("prediction_set", "BOOL", (-1, labels)),
        ]
        self.outputs = (rows[0], *by_label, *rows[1:], TensorSpec(GRAPH_VERSION, BYTES, (-1, 1)))
        self.max_batch = pipeline.limits.inputs

    @property
    def pipeline(self) -> Pipeline:
        """What answers."""
        return self._pipeline

    @property
    def limits(self) -> Limits:
        """Of the pipeline."""
        return self._pipeline.limits

    @property
    def settings(self) -> Mapping[str, str]:
        """The labels in their order, and the version of the graph that answers now."""
        return {"labels": json.dumps(self._labels), "graph_version": self._pipeline.graph_version}

    @property
    def provider(self) -> str:
        """Execution provider that runs the model."""
        return self._pipeline.provider

    @property
    def statistics(self) -> Statistics:
        """Of the pipeline, so requests over groundwire.v1 count too."""
        return self._pipeline.statistics

    async def infer(
        self, inputs: Mapping[str, Array], wanted: Sequence[str], parameters: Parameters, deadline: float | None
    ) -> dict[str, Array]:
        """Predict each text of `inputs["text"]`, BYTES [N, 1], UTF-8. Each output has N rows.

        Raises:
            InvalidRequestError: a text is not UTF-8, blank or too long; there are too many; a parameter is out of
                range.
            GroundwireError: as `Pipeline.answer`.
        """
        texts = inputs[TEXT].ravel()
        items = [prediction_pb2.PredictInput(text=_utf8(text, index)) for index, text in enumerate(texts)]
        options = _options(parameters)
        options.priority = requested_priority(parameters, self.limits)
        answer = await self._pipeline.answer(items, options, deadline)
        return {name: self._column(name, answer) for name in wanted}

    def _column(self, name: str, answer: prediction_pb2.PredictResponse) -> Array:
        predictions = answer.predictions
        match name:
            case "graph_version":
                return np.full((len(predictions), 1), answer.graph_version.encode(), object)
            case "probabilities":
                return np.array([[score.probability for score in p.scores] for p in predictions], np.float32)
            case "logits":
                return np.array([[score.logit for score in p.scores] for p in predictions], np.float32)
            case "prediction_set":
                return np.array([[label in p.prediction_set.labels for label in self._labels] for p in predictions])
        datatype, value = _COLUMNS[name]
        column = np.empty((len(predictions), 1), _DTYPES[datatype])
        column[:, 0] = [value(prediction) for prediction in predictions]
        return column


def _options(parameters: Parameters) -> prediction_pb2.PredictOptions:
    """Options of the request that are given as parameters of the right type."""
    options = prediction_pb2.PredictOptions()
    if "coverage" in parameters:
        options.coverage = _parameter(parameters, "coverage", "double_param")
    for name in ("top_k", "probes"):
        if name in parameters:
            number = _parameter(parameters, name, "int64_param", "uint64_param")
            if not 0 <= number < 1 << 32:
                raise InvalidRequestError(f"parameters.{name}", f"is {number}; it must lie between 0 and 2^32 - 1")
            setattr(options, name, number)
    return options


def _parameter(parameters: Parameters, name: str, *kinds: str) -> Any:
    kind = parameters[name].WhichOneof("parameter_choice")
    if kind not in kinds:
        raise InvalidRequestError(f"parameters.{name}", f"must be given as {' or '.join(kinds)}")
    return getattr(parameters[name], kind)


def _utf8(text: bytes, index: int) -> str:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(f"{TEXT}[{index}]", "is not UTF-8") from error
