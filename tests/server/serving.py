"""What the tests of the server share: a graph in TriG, texts about it, and waiting."""

import asyncio
from collections.abc import Callable

import numpy as np
import onnxruntime as ort

from groundwire.bundle import INPUTS, OUTPUTS, Bundle
from groundwire.kg import Retriever
from groundwire.server.app import Server
from groundwire.server.client import Client
from groundwire.server.pipeline import Pipeline
from groundwire.v1 import prediction_pb2

# The model's outputs for one text alone; see the fixture `direct`.
Direct = Callable[..., dict[str, np.ndarray]]

TRIG = """
@prefix : <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
:capitalOf rdfs:label "capital of" . :continent rdfs:label "continent" . :population rdfs:label "population" .
:Paris rdfs:label "Paris" . :Lyon rdfs:label "Lyon" . :Oslo rdfs:label "Oslo" . :Lima rdfs:label "Lima" .
:France rdfs:label "France"@en . :Norway rdfs:label "Norway" . :Peru rdfs:label "Peru" .
:Europe rdfs:label "Europe" . :America rdfs:label "South America" .
:atlas { :Paris :capitalOf :France ; :population 2100000 . :Oslo :capitalOf :Norway . :Lima :capitalOf :Peru . }
:census { :Paris :population 2200000 . :Lyon :population 520000 . }
:France :continent :Europe . :Norway :continent :Europe . :Peru :continent :America .
:France :motto "Liberté"@fr .
"""
TEXTS = (
    "Paris is the capital of France.",
    "Lyon is the capital of France, not Paris.",
    "Oslo is the capital of Norway.",
    "Lima lies in South America and is the capital of Peru, or so people say.",
    "The population of Paris is 2100000.",
    "Nothing here is in the graph at all.",
    "Norway is on the continent of Europe.",
    "Peru",
)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what the other side does by itself and tells nobody of."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)


def only_pipeline(server: Server) -> Pipeline:
    """That of the one text model that the server holds."""
    [model] = server.models.all()
    return model.pipeline


def predict_singly(client: Client) -> list[prediction_pb2.PredictResponse]:
    """Answers of `TEXTS`, one call each: bit for bit the same every time, since each is a batch of its own."""
    return [client.predict([text]) for text in TEXTS]


def direct_model(bundle: Bundle, retriever: Retriever) -> Direct:
    """The model's outputs for one text alone, straight from ONNX Runtime: what every answer of a server must equal.

    `written` is what the model reads in place of the text, beside the text's own evidence.
    """
    session = ort.InferenceSession(bundle.model, providers=["CPUExecutionProvider"])
    encoder = bundle.encoder()
    known: dict[tuple[str, bool, str], dict[str, np.ndarray]] = {}

    def run(text: str, evidence: bool = True, written: str = "") -> dict[str, np.ndarray]:
        key = (text, evidence, written)
        if key not in known:
            triples = retriever.ground(text, bundle.manifest.inputs.top_k).evidence if evidence else ()
            row = encoder.encode(written or text, triples)
            feed = dict(zip(INPUTS, ([row.ids], [[1] * len(row.ids)], [row.type_ids]), strict=True))
            tensors = session.run(list(OUTPUTS), {name: np.array(ids, dtype=np.int64) for name, ids in feed.items()})
            known[key] = {name: tensor[0] for name, tensor in zip(OUTPUTS, tensors, strict=True)}
        return known[key]

    return run
