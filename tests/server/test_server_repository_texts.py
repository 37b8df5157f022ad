"""Bundles of a model repository through groundwire.v1: what is loaded answers, and a call keeps its version."""

import asyncio
import dataclasses
import random
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from asking import Asker
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import ServeProcess
from repositories import write_version
from serving import TEXTS, Direct, direct_model, until
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2 as pb
from groundwire.inference import service_pb2_grpc
from groundwire.kg import Retriever
from groundwire.server import service_prediction
from groundwire.server.app import BackgroundServer, Server
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.server.config import RepositoryConfig, ServerConfig
from groundwire.v1 import prediction_pb2

CLIENTS = 8
VERSIONS = 6
EXPLICIT_ALL = {"control": "explicit", "load": ("*",)}
Request = prediction_pb2.PredictStreamRequest
Status = health_pb2.HealthCheckResponse


def put(folder: Path, number: int, seed: int) -> Bundle:
    """Put a bundle at texts/NUMBER in one step."""
    bundle = write_tiny_bundle(folder / f".{number}-{seed}", "of-another-name", seed=seed)
    out = folder / "texts" / str(number)
    out.parent.mkdir(exist_ok=True)
    if out.exists():
        out.rename(folder / f".old-{number}-{seed}")
    bundle.path.rename(out)
    return bundle


def without_bundles(graph: Path, folder: Path, **options) -> ServerConfig:
    repository = RepositoryConfig(folder, **options)
    return ServerConfig((), graph, "127.0.0.1:0", "cpu", 1, repository=repository, reload_seconds=0)


@contextmanager
def serving(config: ServerConfig) -> Iterator[tuple[Client, Asker, Callable[[], int]]]:
    """A client of groundwire.v1, one of the Open Inference Protocol, and what health says of predictions."""
    with BackgroundServer(config) as server, grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            return health.Check(health_pb2.HealthCheckRequest(service=service_prediction.NAME), timeout=60).status

        with Client(server.address) as client:
            yield client, Asker(channel), status


@contextmanager
def refused(code: str, *words: str) -> Iterator[None]:
    with pytest.raises(RemoteError) as error:
        yield
    assert error.value.code == code, error.value
    assert all(word in str(error.value) for word in words), error.value


def listed(client: Client) -> list[tuple[str, str]]:
    return [(model.name, model.version) for model in client.list_models()]


def is_of(direct: Direct, texts: Sequence[str], predictions: Sequence[prediction_pb2.Prediction]) -> bool:
    found = np.array([[score.probability for score in prediction.scores] for prediction in predictions])
    return np.allclose(found, [direct(text)["probabilities"] for text in texts], atol=1e-5)


def stream_one(client: Client, **fields) -> prediction_pb2.PredictStreamResponse:
    item = prediction_pb2.PredictInput(text=TEXTS[0])
    [answer] = client.predict_stream([Request(id="7", input=item, **fields)])
    return answer


def test_what_is_loaded_answers_and_what_is_not_does_not(graph: Path, retriever: Retriever, tmp_path: Path) -> None:
    first, second = put(tmp_path, 4, seed=4), put(tmp_path, 5, seed=5)
    write_version(tmp_path, "adder", 1)
    direct = {"4": direct_model(first, retriever), "5": direct_model(second, retriever)}
    with serving(without_bundles(graph, tmp_path, control="explicit", versions=2)) as (client, ask, status):
        assert (listed(client), status()) == ([], Status.NOT_SERVING)
        for name in ("", "texts"):
            with refused("NOT_FOUND", "this server holds no" if not name else "none now"):
                client.predict(TEXTS, model=name)
        ask.load("adder")
        assert (listed(client), status()) == ([], Status.NOT_SERVING)
        ask.load("texts")
        assert (listed(client), status()) == ([("texts", "4"), ("texts", "5")], Status.SERVING)
        for name, version, answering in (("", "", "5"), ("texts", "", "5"), ("texts", "4", "4"), ("", "4", "4")):
            response = client.predict(TEXTS, model=name, model_version=version)
            assert (response.model, response.model_version) == ("texts", answering)
            assert is_of(direct[answering], TEXTS, response.predictions)
            answer = stream_one(client, model=name, model_version=version)
            assert (answer.id, answer.model, answer.model_version) == ("7", "texts", answering)
            assert is_of(direct[answering], TEXTS[:1], [answer.prediction])
            model = client.get_model(name, version)
            assert (model.name, model.version, model.provider) == ("texts", answering, "cpu")
            assert model.manifest == (first if answering == "4" else second).manifest
        with refused("NOT_FOUND", "in version 4 and 5, not '6'"):
            client.predict(TEXTS, model_version="6")
        with refused("NOT_FOUND", "'nope'", "holds texts"):
            client.predict(TEXTS, model="nope")
        with refused("NOT_FOUND", "reads tensors", "texts"):
            client.predict(TEXTS, model="adder")
        assert stream_one(client, model="nope").error.code == grpc.StatusCode.NOT_FOUND.value[0]
        ask.unload("texts")
        assert (listed(client), status()) == ([], Status.NOT_SERVING)
        for call in (lambda: client.predict(TEXTS, model="texts"), lambda: client.get_model("texts")):
            with refused("UNAVAILABLE", "not loaded"):
                call()
        assert stream_one(client, model="texts").error.code == grpc.StatusCode.UNAVAILABLE.value[0]
        ask.load("texts")
        assert is_of(direct["5"], TEXTS, client.predict(TEXTS).predictions)
        assert status() == Status.SERVING


def test_those_of_the_repository_and_those_that_were_given_stand_side_by_side(
    config: ServerConfig, tiny: Bundle, direct: Direct, retriever: Retriever, tmp_path: Path
) -> None:
    bundle = put(tmp_path, 2, seed=3)
    both = dataclasses.replace(config, repository=RepositoryConfig(tmp_path, **EXPLICIT_ALL))
    with serving(both) as (client, ask, status):
        assert listed(client) == [("texts", "2"), ("tiny", tiny.manifest.version)]
        with refused("INVALID_ARGUMENT", "several models: texts, tiny"):
            client.predict(TEXTS)
        for name, expected in (("tiny", direct), ("texts", direct_model(bundle, retriever))):
            assert is_of(expected, TEXTS, client.predict(TEXTS, model=name).predictions)
        ask.unload("texts")
        assert (listed(client), status()) == ([("tiny", tiny.manifest.version)], Status.SERVING)
        assert is_of(direct, TEXTS, client.predict(TEXTS).predictions)


def test_a_repository_without_a_graph_offers_no_predictions(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    plain = ServerConfig((), None, "127.0.0.1:0", "cpu", 1, repository=RepositoryConfig(tmp_path))
    with serving(plain) as (client, ask, status):
        with refused("UNIMPLEMENTED"):
            client.predict(TEXTS)
        with pytest.raises(grpc.RpcError) as unknown:
            status()
        assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
        assert ask.add("adder") == (1.0, "1")


async def test_a_call_keeps_the_version_that_it_began_with(graph: Path, retriever: Retriever, tmp_path: Path) -> None:
    direct = {1: direct_model(put(tmp_path, 1, seed=1), retriever)}
    config = without_bundles(graph, tmp_path, **EXPLICIT_ALL)
    async with (
        Server(config) as server,
        AsyncClient(server.address) as client,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        async def states() -> dict[str, str]:
            return {one.version: one.state for one in (await stub.RepositoryIndex(pb.RepositoryIndexRequest())).models}

        [model] = server.models.all()
        gate, started, run = threading.Event(), threading.Event(), model.pipeline.runtime.run

        def held(rows):
            started.set()
            assert gate.wait(60)
            return run(rows)

        model.pipeline.runtime.run = held  # the real one behind a gate
        del model
        first = asyncio.create_task(client.predict(TEXTS))
        await until(started.is_set)
        direct[2] = direct_model(put(tmp_path, 2, seed=2), retriever)
        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="texts"))
        second = await client.predict(TEXTS)
        assert second.model_version == "2" and is_of(direct[2], TEXTS, second.predictions)
        assert await states() == {"1": "UNLOADING", "2": "READY"}
        assert not first.done()
        gate.set()
        answer = await first
        assert answer.model_version == "1" and is_of(direct[1], TEXTS, answer.predictions)
        await until(lambda: len(server.models.all()) == 1)
        while (await states())["1"] == "UNLOADING":  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.001)
        assert await states() == {"1": "UNAVAILABLE", "2": "READY"}


def place(folder: Path, number: int, bundle: Bundle) -> None:
    """Put a copy of a bundle at texts/NUMBER in one step."""
    staging, out = folder / f".{bundle.path.name}", folder / "texts" / str(number)
    shutil.copytree(bundle.path, staging)
    out.parent.mkdir(exist_ok=True)
    if out.exists():
        out.rename(folder / f".old-{number}")
    staging.rename(out)


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_answer_is_lost_or_mixed_while_models_are_reloaded(
    graph: Path, retriever: Retriever, tmp_path: Path, workers: int
) -> None:
    """Eight clients ask without a pause while new versions come, and others take the place of old ones."""
    folder, made = tmp_path / "models", tmp_path / "made"
    folder.mkdir()
    made.mkdir()
    # All that is ever said under a version: the last one is replaced by another of the same number.
    seeds = [*((number, number) for number in range(1, VERSIONS + 1)), (VERSIONS, 100)]
    bundles = [(number, write_tiny_bundle(made / str(seed), seed=seed)) for number, seed in seeds]
    known: dict[str, list[Direct]] = {}
    for number, bundle in bundles:
        known.setdefault(str(number), []).append(direct_model(bundle, retriever))
        for text in TEXTS:
            known[str(number)][-1](text)

    def check(version: str, texts: list[str], predictions: Sequence[prediction_pb2.Prediction]) -> None:
        assert any(is_of(direct, texts, predictions) for direct in known[version]), version

    answered, stop = [0] * CLIENTS, asyncio.Event()

    async def ask(address: str, number: int) -> set[str]:
        rng, seen = random.Random(number), set()
        async with AsyncClient(address, timeout=120) as client:
            while not stop.is_set():
                texts = rng.choices(TEXTS, k=rng.randint(1, 16))
                if number % 2:
                    response = await client.predict(texts, model="texts")
                    check(response.model_version, texts, response.predictions)
                    seen.add(response.model_version)
                else:
                    waiting = dict(enumerate(texts))

                    async def requests(waiting: dict[int, str] = waiting) -> AsyncIterator[Request]:
                        for key, text in list(waiting.items()):
                            yield Request(id=str(key), input=prediction_pb2.PredictInput(text=text))

                    async for answer in client.predict_stream(requests()):
                        assert not answer.HasField("error"), answer.error
                        check(answer.model_version, [waiting.pop(int(answer.id))], [answer.prediction])
                        seen.add(answer.model_version)
                    assert not waiting
                answered[number] += 1
        return seen

    place(folder, *bundles[0])
    options = ("--models", str(folder), "--model-control", "explicit", "--load-model", "*", "--workers", str(workers))
    with ServeProcess(None, graph, *options) as server:
        tasks = [asyncio.create_task(ask(server.address, number)) for number in range(CLIENTS)]

        async def all_answered(more: int) -> None:
            before = list(answered)
            await until(
                lambda: (
                    all(now >= was + more for now, was in zip(answered, before, strict=True))
                    or any(task.done() for task in tasks)
                )
            )

        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for number, bundle in bundles[1:]:
                await all_answered(1)
                await asyncio.to_thread(place, folder, number, bundle)
                await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="texts"), timeout=60)
            await all_answered(2)  # what is sent from now on can only be answered by the last version
        stop.set()
        seen = await asyncio.gather(*tasks)
        assert all({"1", str(VERSIONS)} <= each for each in seen)
        # Every version that was replaced is closed, also the one of the last number.
        assert len(server.wait_for("model closed", workers * VERSIONS)) == workers * VERSIONS
        server.terminate()
        assert server.wait() == 0
