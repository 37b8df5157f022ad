"""What text attacks run against: an artifact of the toolchain, a bundle on ONNX Runtime, or a server over gRPC.

Each is turned into a function from texts, or from (text, evidence) pairs, to probabilities. An artifact and a bundle
ground every variant of a text anew, as a server does, so a slip that hides a name from linking costs its evidence.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from groundwire.bundle import INPUTS, OUTPUTS, Bundle
from groundwire.export.artifact import Artifact
from groundwire.export.calibrate import ensemble_probabilities
from groundwire.export.onnx_graph import session
from groundwire.export.rows import Row, TextBatch, ordered_batches
from groundwire.kg import Evidence, Retriever
from groundwire.kg.encode import PairEncoder
from groundwire.v1 import prediction_pb2

Floats = NDArray[np.float64]
Run = Callable[[TextBatch], Floats]


def artifact_run(artifact: Artifact, temperature: float) -> Run:
    """Probabilities of an artifact, [B, C], at its temperature."""
    return lambda batch: ensemble_probabilities(artifact.run(batch)[0], temperature)


def bundle_run(bundle: Bundle, threads: int = 0) -> Run:
    """Calibrated probabilities of a bundle's own graph on ONNX Runtime, [B, C]."""
    opened = session(bundle.model, threads)

    def run(batch: TextBatch) -> Floats:
        tensors = (batch.ids.numpy(), batch.mask.numpy(), batch.types.numpy())
        (out,) = opened.run([OUTPUTS[1]], dict(zip(INPUTS, tensors, strict=True)))
        probabilities: Floats = out.astype(np.float64)
        return probabilities

    return run


class Grounded:
    """A model with its graph, for attacks: texts or (text, evidence) pairs -> probabilities [N, C].

    Args:
        run: `artifact_run` or `bundle_run`.
        encoder: the model's own.
        retriever: the graph; None for a model of the text alone.
        top_k: most triples for a text.
        entities: for `texts_for`, the entities (IRIs) of each attacked text, which then replace linking.
    """

    def __init__(
        self,
        run: Run,
        encoder: PairEncoder,
        retriever: Retriever | None = None,
        top_k: int = 0,
        entities: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.run, self.encoder, self.retriever, self.top_k, self.entities = run, encoder, retriever, top_k, entities

    def texts(self, texts: Sequence[str]) -> Floats:
        """For `attack_texts`: entities are found by linking."""
        return self.pairs([(text, self.evidence(text, None)) for text in texts])

    def texts_for(self, texts: Sequence[str], owners: Sequence[int]) -> Floats:
        """For `attack_texts_for`: entities are those given with the attacked texts."""
        given = self.entities
        return self.pairs(
            [(t, self.evidence(t, None if given is None else given[n])) for t, n in zip(texts, owners, strict=True)]
        )

    def pairs(self, pairs: Sequence[tuple[str, Sequence[Evidence]]]) -> Floats:
        """For `attack_evidence`."""
        rows = []
        for index, (text, evidence) in enumerate(pairs):
            encoded = self.encoder.encode(text, evidence)
            rows.append(Row(encoded.ids, encoded.type_ids, 0, index))
        out: list[Floats] = [np.empty(0)] * len(rows)
        for batch in ordered_batches(rows, 64, self.encoder.pad_id):
            for index, probabilities in zip(batch.index.tolist(), self.run(batch), strict=True):
                out[index] = probabilities
        return np.stack(out)

    def evidence(self, text: str, entities: Sequence[str] | None) -> tuple[Evidence, ...]:
        """What the graph says of a text."""
        if self.retriever is None or self.top_k == 0:
            return ()
        return self.retriever.ground(text, self.top_k, entities).evidence


def served(
    ask: Callable[[list[prediction_pb2.PredictInput]], prediction_pb2.PredictResponse],
    *,
    entities: Sequence[Sequence[str]] | None = None,
    batch_limit: int = 64,
) -> Callable[[Sequence[str], Sequence[int]], Floats]:
    """A server, for `attack_texts_for`.

    Args:
        ask: sends inputs to PredictionService.Predict, such as `groundwire.server.client.Client.predict`.
        entities: the entities (IRIs) of each attacked text, which then replace linking; None links.
        batch_limit: most inputs that the server takes in one request.
    """

    def predict(texts: Sequence[str], owners: Sequence[int]) -> Floats:
        inputs = [
            prediction_pb2.PredictInput(text=text, entities=() if entities is None else entities[n])
            for text, n in zip(texts, owners, strict=True)
        ]
        predictions = [
            prediction
            for start in range(0, len(inputs), batch_limit)
            for prediction in ask(inputs[start : start + batch_limit]).predictions
        ]
        return np.array([[score.probability for score in prediction.scores] for prediction in predictions])

    return predict
