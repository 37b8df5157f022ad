"""A bundle that asks for texts to be put right: the server reads a misspelt text as the one that was meant."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from serving import direct_model
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import MANIFEST, WORDS, Bundle, open_bundle, seal_bundle
from groundwire.errors import BundleError
from groundwire.kg import Retriever
from groundwire.kg.known_words import KnownWords
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig
from groundwire.v1 import prediction_pb2

MEANT = "Paris is the capital of the country France."
SLIPS = (
    "Paris is the cpaital of the country France.",
    "Paris is the capital of the coun try France.",
    "Paris is the c\u0430pital of the country France.",  # Cyrillic
    "Paris is the cap\u200bital of the country France.",
)


@pytest.fixture(scope="module")
def righting(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    words = KnownWords.of(2 * ["Paris is the capital of the country."], {})
    return write_tiny_bundle(tmp_path_factory.mktemp("righting") / "righting", "righting", words=words)


@pytest.fixture(scope="module")
def client(righting: Bundle, graph: Path) -> Iterator[Client]:
    config = ServerConfig((righting.path,), graph, "127.0.0.1:0", provider="cpu", threads=1)
    with BackgroundServer(config) as running, Client(running.address) as opened:
        yield opened


def test_a_misspelt_text_is_answered_as_the_one_that_was_meant(client: Client) -> None:
    meant, *others = client.predict((MEANT, *SLIPS)).predictions
    for other in others:
        assert [s.logit for s in other.scores] == pytest.approx([s.logit for s in meant.scores], abs=1e-5)
        assert other.label == meant.label


def test_mentions_are_places_in_the_text_as_given(client: Client) -> None:
    text = "The coun try is France and the cpaital is Paris."
    (prediction,) = client.predict([text]).predictions
    assert {text[m.start : m.end] for m in prediction.mentions} == {"France", "Paris"}


def test_rows_are_those_that_the_bundle_makes_for_training(
    client: Client, righting: Bundle, retriever: Retriever
) -> None:
    direct = direct_model(righting, retriever)
    for text, prediction in zip(SLIPS, client.predict(SLIPS).predictions, strict=True):
        found = [score.probability for score in prediction.scores]
        np.testing.assert_allclose(found, direct(text)["probabilities"], atol=1e-6)


def test_rows_without_a_triple_hold_the_same_text(client: Client, righting: Bundle, retriever: Retriever) -> None:
    """ "Franec" is a slip that only the evidence puts right."""
    text = "The capital of Franec is Paris."
    options = prediction_pb2.PredictOptions(contributions=True)
    (prediction,) = client.predict([text], options=options).predictions
    evidence = retriever.ground(text, 8).evidence
    encoder = righting.encoder()
    whole, bare = encoder.encode(text, evidence), encoder.encode(text, (), evidence)
    assert bare.ids[:-1] == whole.ids[: len(bare.ids) - 1], "the text is the same with its evidence and without"
    assert bare.ids == encoder.encode("The capital of France is Paris.", ()).ids != encoder.encode(text, ()).ids
    top = max(score.probability for score in prediction.scores)
    label = [score.label for score in prediction.scores].index(prediction.label)
    without = direct_model(righting, retriever)("The capital of France is Paris.", evidence=False)["probabilities"]
    lost = prediction.uncertainty.explanation.comprehensiveness
    assert lost == pytest.approx(top - float(without[label]), abs=1e-5)


def test_a_bundle_without_its_words_or_with_others_is_refused(righting: Bundle, tmp_path: Path) -> None:
    for number, (content, message) in enumerate(((None, "no words.txt"), (b"many\twords\n", "words.txt"))):
        staging, out = tmp_path / f"staging-{number}", tmp_path / f"bundle-{number}"
        staging.mkdir()
        for file in righting.path.iterdir():
            if file.name not in {MANIFEST, WORDS}:
                (staging / file.name).write_bytes(file.read_bytes())
        if content is not None:
            (staging / WORDS).write_bytes(content)
        with pytest.raises(BundleError, match=message):
            seal_bundle(staging, open_bundle(righting.path).manifest, out).encoder()
