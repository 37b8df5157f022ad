"""Predict: every field of a prediction, against the model run by hand and against the graph."""

import math

import numpy as np
import pytest
from serving import TEXTS, Direct
from tiny_bundle import HEADS, LABELS, TEMPERATURE, write_tiny_bundle

from groundwire.bundle import Bundle
from groundwire.conformal import prediction_sets
from groundwire.kg import Retriever
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig
from groundwire.server.pipeline import Pipeline
from groundwire.server.probes import perturb
from groundwire.v1 import prediction_pb2

EX = "http://example.org/"


def test_scores_are_those_of_the_model(client: Client, direct: Direct, tiny: Bundle) -> None:
    response = client.predict(TEXTS)
    assert (response.model, response.model_version) == ("tiny", tiny.manifest.version)
    assert len(response.predictions) == len(TEXTS)
    for text, prediction in zip(TEXTS, response.predictions, strict=True):
        expected = direct(text)
        probabilities = [score.probability for score in prediction.scores]
        np.testing.assert_allclose(probabilities, expected["probabilities"], atol=1e-6)
        np.testing.assert_allclose([score.logit for score in prediction.scores], expected["logits"], atol=1e-4)
        assert [score.label for score in prediction.scores] == list(LABELS)
        top = int(np.argmax(expected["probabilities"]))
        assert prediction.label == LABELS[top]
        assert prediction.probability == max(probabilities)


def test_uncertainty_of_the_model_follows_from_its_outputs(client: Client, direct: Direct) -> None:
    for text, prediction in zip(TEXTS, client.predict(TEXTS).predictions, strict=True):
        heads = direct(text)["head_probabilities"].astype(float)
        mean = heads.mean(axis=0)
        entropy = -(mean * np.log(mean)).sum()
        model = prediction.uncertainty.model
        assert prediction.uncertainty.entropy == pytest.approx(entropy, abs=1e-4)
        assert model.heads == HEADS
        inside = -(heads * np.log(heads)).sum(axis=1).mean()
        assert model.mutual_information == pytest.approx(entropy - inside, abs=1e-4)
        assert model.agreement == pytest.approx((heads.argmax(axis=1) == mean.argmax()).mean())
        logits = direct(text)["logits"].astype(float) / TEMPERATURE
        assert model.energy == pytest.approx(-TEMPERATURE * np.log(np.exp(logits).sum()), abs=1e-4)
        distance = float(direct(text)["distance"])
        assert model.distance == pytest.approx(distance, abs=1e-5)
        assert model.distance_quantile == pytest.approx(distance / 6, abs=1e-5)  # quantiles are even on [0, 6]
        ranked = np.sort(mean)[::-1]
        assert prediction.uncertainty.sensitivity.margin == pytest.approx(ranked[0] - ranked[1], abs=1e-5)
        assert prediction.uncertainty.sensitivity.covered == (ranked[0] - ranked[1] >= 0.3)
        assert prediction.uncertainty.sensitivity.robust_margin == pytest.approx(0.3)
        assert prediction.uncertainty.sensitivity.robust_share == pytest.approx(0.95)


@pytest.mark.parametrize("coverage", [None, 0.5, 0.99])
def test_set_and_decision_follow_the_policy(
    client: Client, direct: Direct, tiny: Bundle, coverage: float | None
) -> None:
    options = prediction_pb2.PredictOptions(coverage=coverage)
    seen = set()
    for text, prediction in zip(TEXTS, client.predict(TEXTS, options=options).predictions, strict=True):
        probabilities = direct(text)["probabilities"].astype(float)
        [members] = prediction_sets(probabilities[None], tiny.manifest.conformal[0], coverage or 0.9)
        chosen = prediction.prediction_set
        assert list(chosen.labels) == [LABELS[i] for i in np.argsort(-probabilities) if members[i]]
        assert chosen.coverage == (coverage or 0.9)
        assert chosen.method == prediction_pb2.CONFORMAL_METHOD_LAC
        reasons = {
            prediction_pb2.ABSTAIN_REASON_AMBIGUOUS: len(chosen.labels) != 1,
            prediction_pb2.ABSTAIN_REASON_OUT_OF_DISTRIBUTION: prediction.uncertainty.model.distance_quantile > 0.99,
            prediction_pb2.ABSTAIN_REASON_NOT_GROUNDED: prediction.uncertainty.knowledge.not_in_graph,
        }
        assert list(prediction.abstain_reasons) == [reason for reason, applies in reasons.items() if applies]
        accepts = prediction.decision == prediction_pb2.DECISION_ACCEPT
        assert accepts == (not any(reasons.values()))
        seen.add(prediction.decision)
    assert coverage != 0.5 or seen == {prediction_pb2.DECISION_ACCEPT, prediction_pb2.DECISION_ABSTAIN}


def test_evidence_and_mentions_are_those_of_the_graph(client: Client, retriever: Retriever) -> None:
    [prediction] = client.predict([TEXTS[0]]).predictions
    assert [(m.text, m.entity) for m in prediction.mentions] == [("Paris", EX + "Paris"), ("France", EX + "France")]
    assert TEXTS[0][prediction.mentions[1].start : prediction.mentions[1].end] == "France"
    grounding = retriever.ground(TEXTS[0], 8)
    assert [e.text for e in prediction.evidence] == [e.text for e in grounding.evidence]
    best = prediction.evidence[0]
    assert (best.subject.iri, best.predicate.iri, best.object.iri) == (EX + "Paris", EX + "capitalOf", EX + "France")
    assert (best.subject.label, best.graph) == ("Paris", EX + "atlas")
    relevance = [e.relevance for e in prediction.evidence]
    assert relevance == sorted(relevance, reverse=True)
    assert not any(e.HasField("contribution") for e in prediction.evidence)
    literals = {
        e.object.literal.lexical_form: e.object.literal for e in prediction.evidence if e.object.literal.datatype
    }
    assert literals["2100000"].datatype == "http://www.w3.org/2001/XMLSchema#integer"
    assert literals["Liberté"].language == "fr"
    knowledge, explanation = prediction.uncertainty.knowledge, prediction.uncertainty.explanation
    assert knowledge.coverage == pytest.approx(grounding.coverage)
    assert knowledge.link_confidence == pytest.approx(np.mean([m.score for m in prediction.mentions]))
    assert not knowledge.not_in_graph
    assert knowledge.conflicts == 1  # atlas and census count the people of Paris differently
    assert explanation.evidence_count == len(prediction.evidence)
    assert explanation.max_relevance == relevance[0]
    assert not explanation.HasField("comprehensiveness")


def test_a_text_with_nothing_to_ground_is_answered_and_says_so(client: Client) -> None:
    [prediction] = client.predict(["Nothing here is known."]).predictions
    knowledge = prediction.uncertainty.knowledge
    assert knowledge.not_in_graph
    assert (knowledge.coverage, knowledge.link_confidence) == (0, 0)
    assert prediction_pb2.ABSTAIN_REASON_NOT_GROUNDED in prediction.abstain_reasons
    assert prediction.label in LABELS
    assert not prediction.evidence


def test_entities_replace_linking(client: Client) -> None:
    item = prediction_pb2.PredictInput(id="7", text="It is the capital of Norway.", entities=[EX + "Oslo"])
    [prediction] = client.predict([item]).predictions
    assert prediction.id == "7"
    assert not prediction.mentions
    assert {e.subject.iri for e in prediction.evidence} == {EX + "Oslo"}
    assert prediction.uncertainty.knowledge.link_confidence == 1


def test_an_entity_that_the_graph_lacks_leaves_the_text_ungrounded(client: Client) -> None:
    item = prediction_pb2.PredictInput(text="Paris is the capital of France.", entities=["urn:none:such"])
    [prediction] = client.predict([item]).predictions
    assert prediction.uncertainty.knowledge.not_in_graph
    assert prediction.uncertainty.knowledge.coverage == 0
    assert not prediction.evidence


def test_contributions_are_what_each_triple_changes(
    client: Client, direct: Direct, tiny: Bundle, retriever: Retriever
) -> None:
    options = prediction_pb2.PredictOptions(contributions=True)
    predictions = client.predict(TEXTS, options=options).predictions
    plain = client.predict(TEXTS).predictions
    for text, prediction, without in zip(TEXTS, predictions, plain, strict=True):
        label = LABELS.index(prediction.label)
        assert prediction.probability == pytest.approx(without.probability, abs=1e-6)
        explanation = prediction.uncertainty.explanation
        assert explanation.HasField("comprehensiveness") == bool(prediction.evidence)
        if prediction.evidence:
            drop = prediction.probability - direct(text, evidence=False)["probabilities"][label]
            assert explanation.comprehensiveness == pytest.approx(drop, abs=1e-5)
            assert all(e.HasField("contribution") for e in prediction.evidence)
    # One triple left out, by hand: the graph asked for one triple fewer leaves out the last one.
    [full] = client.predict([TEXTS[0]], options=options).predictions
    fewer = prediction_pb2.PredictOptions(top_k=len(full.evidence) - 1)
    [shorter] = client.predict([TEXTS[0]], options=fewer).predictions
    label = LABELS.index(full.label)
    assert len(shorter.evidence) == len(full.evidence) - 1
    expected = full.probability - shorter.scores[label].probability
    assert full.evidence[-1].contribution == pytest.approx(expected, abs=1e-6)
    assert math.fsum(abs(e.contribution) for e in full.evidence) > 0


def test_probes_say_how_often_the_label_flips(client: Client, direct: Direct, retriever: Retriever) -> None:
    """A text with a word at the border of two labels, so that some copies flip and others do not."""
    rates = set()
    for number, text in enumerate(f"{text} Perhaps {number}" for text in TEXTS for number in range(4)):
        options = prediction_pb2.PredictOptions(probes=32, contributions=number % 2 == 0)
        [prediction] = client.predict([text], options=options).predictions
        copies = perturb(text, retriever.link(text), 32)
        labels = [LABELS[direct(text, written=copy)["probabilities"].argmax()] for copy in copies]
        sensitivity = prediction.uncertainty.sensitivity
        assert sensitivity.probes == len(copies)
        assert sensitivity.flip_rate == pytest.approx(np.mean([label != prediction.label for label in labels]))
        rates.add(sensitivity.flip_rate)
    assert len(rates) > 1


def test_probes_are_repeatable_and_fewer_where_little_may_change(client: Client) -> None:
    options = prediction_pb2.PredictOptions(probes=32)
    predictions = client.predict(TEXTS, options=options).predictions
    for prediction in predictions:
        sensitivity = prediction.uncertainty.sensitivity
        assert sensitivity.HasField("flip_rate") == (sensitivity.probes > 0)
        assert 0 <= sensitivity.flip_rate <= 1
        assert sensitivity.flip_rate * sensitivity.probes == pytest.approx(
            round(sensitivity.flip_rate * sensitivity.probes)
        )
    assert predictions[0].uncertainty.sensitivity.probes == 32 or predictions[3].uncertainty.sensitivity.probes == 32
    assert predictions[-1].uncertainty.sensitivity.probes == 0  # "Peru" alone: a mention, so nothing may be changed
    again = client.predict(TEXTS, options=options).predictions
    rates = [p.uncertainty.sensitivity.flip_rate for p in predictions]
    assert [p.uncertainty.sensitivity.flip_rate for p in again] == rates


def test_long_text_is_cut_and_says_so(client: Client) -> None:
    short, long = client.predict([TEXTS[0], TEXTS[0] * 20]).predictions
    assert not short.text_truncated
    assert long.text_truncated


@pytest.mark.parametrize(
    "text",
    [
        "Paris\x00France",
        "a\u202eb",
        "\ufeff Paris",
        "🇫🇷 Paris 👩‍👩‍👧",
        "e\u0301" * 300,
        "\uffff",
        "Paris\r\n\tFrance",
        "'" * 500,
        "|:;,",
        "\u0000",
    ],
)
def test_strange_text_is_answered_like_any_other(client: Client, direct: Direct, text: str) -> None:
    [prediction] = client.predict([text]).predictions
    np.testing.assert_allclose([s.probability for s in prediction.scores], direct(text)["probabilities"], atol=1e-6)


async def test_the_pipeline_answers_in_process_as_over_the_wire(
    client: Client, tiny: Bundle, retriever: Retriever
) -> None:
    inputs = [prediction_pb2.PredictInput(id=str(i), text=text) for i, text in enumerate(TEXTS)]
    options = prediction_pb2.PredictOptions(contributions=True, probes=3)
    async with Pipeline(tiny, retriever, provider="cpu") as pipeline:
        local = await pipeline.predict(inputs, options)
    remote = client.predict(inputs, options=options).predictions
    for here, there in zip(local, remote, strict=True):
        assert here.id == there.id
        assert here.label == there.label
        assert here.probability == pytest.approx(there.probability, abs=1e-6)
        assert [e.text for e in here.evidence] == [e.text for e in there.evidence]


def test_several_models_are_told_apart_by_name(config: ServerConfig, tmp_path, tiny: Bundle, graph_file) -> None:
    other = write_tiny_bundle(tmp_path / "other", "other", seed=5, top_k=0)
    two = ServerConfig((tiny.path, other.path), graph_file, "127.0.0.1:0", provider="cpu")
    with BackgroundServer(two) as running, Client(running.address) as client:
        assert [(m.name, m.version, m.provider) for m in client.list_models()] == [
            ("other", other.manifest.version, "cpu"),
            ("tiny", tiny.manifest.version, "cpu"),
        ]
        first = client.predict([TEXTS[0]], model="tiny")
        second = client.predict([TEXTS[0]], model="other")
        assert (first.model_version, second.model_version) == (tiny.manifest.version, other.manifest.version)
        assert first.predictions[0].scores[0] != second.predictions[0].scores[0]
        assert not second.predictions[0].evidence  # it reads the text alone
        assert not second.predictions[0].uncertainty.knowledge.not_in_graph
        assert first.graph_version == second.graph_version == client.get_graph().version
        assert client.get_graph().retriever == "rdflib"
