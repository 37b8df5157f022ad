"""A graph that is replaced under a running server: no answer dropped, none mixed, the old one released."""

import asyncio
import dataclasses
import gc
import os
import random
import shutil
import signal
import struct
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import grpc
import pytest
from processes import ServeProcess
from serving import TRIG, until
from test_server_metrics import scrape

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2, service_pb2_grpc
from groundwire.kg import compile_graph, compile_store, open_graph
from groundwire.server.app import BackgroundServer
from groundwire.server.client import AsyncClient, Client
from groundwire.server.config import ServerConfig
from groundwire.server.live import Live, open_live
from groundwire.server.sources import live_graph
from groundwire.v1 import prediction_pb2

EX = "http://example.org/"
TEXTS = ("The population of Paris", "Paris is the capital of France.", "Lyon and its population", "Peru")
QUICK = 0.02  # seconds between looks at the files
REPLACEMENTS = 6


class Versions:
    """Variants of one graph: in variant n every population is n, so each triple of evidence tells where it is from."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "graph"
        self._folder = folder
        self.numbers: dict[str, int] = {}

    def source(self, number: int) -> Path:
        text = TRIG
        for population in ("2100000", "2200000", "520000"):
            text = text.replace(population, str(1_000_000 + number))
        path = self._folder / f"places-{number}.trig"
        path.write_text(text, encoding="utf-8")
        return path

    def put(self, number: int) -> str:
        """Compile variant `number` in place of what is there. Its version."""
        compile_graph([self.source(number)], self.out)
        retriever = open_graph(self.out)
        version = retriever.info.version
        retriever.close()
        self.numbers[version] = number
        return version

    def check(self, version: str, evidence: list[str]) -> int:
        """How many triples of the evidence tell of their variant; each must be the one of `version`."""
        populations = [text for text in evidence if "population" in text]
        assert all(text.endswith(str(1_000_000 + self.numbers[version])) for text in populations), (
            version,
            populations,
        )
        return len(populations)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


def mapped(folder: Path) -> list[str]:
    """Files below the folder that this process has mapped though they are deleted."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if str(folder) in line and line.endswith("(deleted)")]


async def hammer(address: str, seed: int, versions: Versions, answered: list[int], stop: asyncio.Event) -> set[str]:
    """Ask in a loop, checking each answer. The versions that were seen."""
    rng = random.Random(seed)
    seen: set[str] = set()
    async with AsyncClient(address, timeout=120) as client:
        while not stop.is_set():
            texts = [rng.choice(TEXTS) for _ in range(rng.randint(1, 32))] + [TEXTS[0]]
            kind = rng.randrange(3)
            if kind == 0:
                grounded = await client.ground(texts)
                version = grounded.graph_version
                evidence = [e.text for result in grounded.results for e in result.evidence]
            elif kind == 1:
                options = prediction_pb2.PredictOptions(contributions=rng.random() < 0.5)
                predicted = await client.predict(texts, options=options)
                version = predicted.graph_version
                evidence = [e.text for prediction in predicted.predictions for e in prediction.evidence]
            else:

                async def requests() -> AsyncIterator[prediction_pb2.PredictStreamRequest]:
                    for number in range(4):
                        item = prediction_pb2.PredictInput(text=TEXTS[0])
                        yield prediction_pb2.PredictStreamRequest(id=str(number), input=item)

                async for one in client.predict_stream(requests()):
                    assert not one.HasField("error"), one.error
                    version, evidence = one.graph_version, [e.text for e in one.prediction.evidence]
                    assert versions.check(version, evidence)
            assert versions.check(version, evidence)
            seen.add(version)
            answered[seed] += 1
    return seen


async def test_no_answer_is_dropped_or_mixed_while_the_graph_is_replaced(
    config: ServerConfig, versions: Versions
) -> None:
    first = versions.put(0)
    # Known before they are put in place, so that no answer can name one that the test has not heard of.
    for number in range(1, REPLACEMENTS + 1):
        versions.put(number)
    versions.put(0)
    watching = dataclasses.replace(config, graph=versions.out, reload_seconds=QUICK)
    with BackgroundServer(watching) as server:
        answered, stop = [0] * 4, asyncio.Event()
        tasks = [asyncio.create_task(hammer(server.address, n, versions, answered, stop)) for n in range(4)]
        async with AsyncClient(server.address, timeout=120) as client:
            assert (await client.get_graph()).version == first
            for number in range(1, REPLACEMENTS + 1):
                before = list(answered)
                await until(lambda b=before: all(a > was for a, was in zip(answered, b, strict=True)) or failed(tasks))
                version = await asyncio.to_thread(versions.put, number)
                async with asyncio.timeout(60):
                    while (await client.get_graph()).version != version:
                        assert not failed(tasks)
            before = list(answered)
            await until(lambda: all(a > was for a, was in zip(answered, before, strict=True)) or failed(tasks))
        stop.set()
        seen = await asyncio.gather(*tasks)
        assert all({first, version} <= each for each in seen)
        await until(lambda: not mapped(versions.out.parent))


def failed(tasks: list["asyncio.Task[set[str]]"]) -> bool:
    return any(task.done() for task in tasks)


def test_the_check_of_mixed_answers_can_fail(versions: Versions) -> None:
    one, two = versions.put(1), versions.put(2)
    assert versions.check(one, ["Paris population: 1000001"]) == 1
    with pytest.raises(AssertionError):
        versions.check(two, ["Paris population: 1000001"])


async def test_a_lease_keeps_its_graph_open_and_its_end_releases_it(versions: Versions) -> None:
    first = versions.put(1)
    async with open_live(live_graph(versions.out), 0) as live:
        with live.lease() as lease:
            second = versions.put(2)
            assert await live.reload()
            assert live.value.info.version == second
            assert lease.value.info.version == first
            await asyncio.sleep(0)
            gc.collect()
            assert mapped(versions.out.parent)
            assert versions.check(first, [e.text for e in lease.value.ground(TEXTS[0], 8).evidence])
        await until(lambda: not mapped(versions.out.parent))
    gc.collect()


async def test_a_thread_keeps_the_lease_when_its_call_is_cancelled(versions: Versions) -> None:
    versions.put(1)
    started, go = Event(), Event()
    released: list[str] = []

    def work() -> None:
        started.set()
        go.wait(60)
        released.append("worked")

    async def close(_value: object) -> None:
        released.append("closed")

    class Value:
        """Something that can be weakly referenced."""

    async def make() -> Value:
        return Value()

    live = Live("value", versions.out, "meta.json", make, close, lambda _: "1")
    with ThreadPoolExecutor(1) as threads:
        async with open_live(live, 0):
            with live.lease() as lease:
                call = asyncio.create_task(lease.run(threads, work))
                await asyncio.to_thread(started.wait, 60)
                call.cancel()
                await asyncio.wait([call])
            del lease
            assert await live.reload()
            await asyncio.sleep(0.01)
            assert released == []
            go.set()
            await until(lambda: len(released) == 2)
    assert released == ["worked", "closed", "closed"]


def break_meta(folder: Path) -> None:
    (folder / "meta.json").write_text("{}")


def break_array(folder: Path) -> None:
    path = folder / "triple_object.npy"
    path.write_bytes(path.read_bytes()[:-4])


def leave_out(folder: Path) -> None:
    (folder / "keys.bin").unlink()


@pytest.mark.parametrize("break_", [break_meta, break_array, leave_out])
def test_a_broken_graph_is_refused_and_the_old_one_goes_on(
    config: ServerConfig, versions: Versions, break_: Callable[[Path], None]
) -> None:
    old = versions.put(1)
    watching = dataclasses.replace(config, graph=versions.out, reload_seconds=QUICK, metrics="127.0.0.1:0")
    with BackgroundServer(watching) as server, Client(server.address, timeout=120) as client:

        def count(outcome: str) -> float:
            return scrape(server.metrics_address)["groundwire_graph_reloads_total"][(outcome, "graph")]

        assert (count("accepted"), count("refused")) == (0, 0)
        broken = versions.out.with_name("broken")
        shutil.copytree(versions.out, broken)
        break_(broken)
        versions.out.rename(versions.out.with_name("old"))
        broken.rename(versions.out)
        asyncio.run(until(lambda: count("refused") >= 1))
        answer = client.ground([TEXTS[0]])
        assert answer.graph_version == client.get_graph().version == old
        assert versions.check(old, [e.text for e in answer.results[0].evidence])
        new = versions.put(2)
        asyncio.run(until(lambda: client.get_graph().version == new))
        asyncio.run(until(lambda: count("accepted") == 1))
        assert count("refused") == 1  # once for each state of the files
        serving = scrape(server.metrics_address)["groundwire_graph_serving"]
        assert serving == {("graph", old): 0, ("graph", new): 1}


def test_a_graph_that_is_gone_for_a_while_is_no_error(config: ServerConfig, versions: Versions) -> None:
    old = versions.put(1)
    watching = dataclasses.replace(config, graph=versions.out, reload_seconds=QUICK, metrics="127.0.0.1:0")
    with BackgroundServer(watching) as server, Client(server.address, timeout=120) as client:
        versions.out.rename(versions.out.with_name("away"))
        for _ in range(20):
            assert client.ground([TEXTS[0]]).graph_version == old
        new = versions.put(2)
        asyncio.run(until(lambda: client.get_graph().version == new))
        assert scrape(server.metrics_address)["groundwire_graph_reloads_total"][("refused", "graph")] == 0


def test_an_rdf_file_is_read_again_when_it_changed(config: ServerConfig, versions: Versions) -> None:
    path = versions.source(1).rename(versions.out.with_suffix(".trig"))
    watching = dataclasses.replace(config, graph=path, reload_seconds=QUICK)
    with BackgroundServer(watching) as server, Client(server.address, timeout=120) as client:
        before = client.get_graph()
        assert before.retriever == "rdflib"
        path.write_text("this is no TriG")
        assert "Paris population: 1000001" in evidence(client)
        versions.source(2).replace(path)
        asyncio.run(until(lambda: client.get_graph().version != before.version))
        assert "Paris population: 1000002" in evidence(client)
        assert client.predict([TEXTS[0]]).graph_version == client.get_graph().version


def evidence(client: Client) -> list[str]:
    return [e.text for e in client.ground([TEXTS[0]]).results[0].evidence]


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_reloads_every_process_and_refuses_what_is_broken(
    tiny: Bundle, versions: Versions, workers: int
) -> None:
    old = versions.put(1)
    options = ("--workers", str(workers), "--reload-seconds", "0", "--metrics", "127.0.0.1:0")
    with ServeProcess(tiny.path, versions.out, *options) as server:
        [event] = server.wait_for("metrics")
        address = event["address"]
        assert scrape(address)["groundwire_graph_serving"] == {("graph", old): workers}
        new = versions.put(2)
        server.process.send_signal(signal.SIGHUP)
        events = server.wait_for("reloaded", workers)
        assert {(event["from"], event["to"]) for event in events} == {(old, new)}
        for _ in range(8):  # connections go to any of them
            with Client(server.address) as client:
                assert client.predict([TEXTS[0]]).graph_version == new
        assert scrape(address)["groundwire_graph_serving"] == {("graph", old): 0, ("graph", new): workers}
        break_meta(versions.out)
        server.process.send_signal(signal.SIGHUP)
        for event in server.wait_for("reload refused", workers):
            assert event["serving"] == new
            assert "compile the graph again" in event["error"]
        with Client(server.address) as client:
            assert client.predict([TEXTS[0]]).graph_version == new
        assert (
            sum(v for (o, _), v in scrape(address)["groundwire_graph_reloads_total"].items() if o == "refused")
            == workers
        )
        server.terminate()
        assert server.wait() == 0


def test_the_query_store_is_replaced_too(config: ServerConfig, versions: Versions) -> None:
    versions.put(1)
    store = versions.out.with_name("store")
    old = compile_store([versions.source(1)], store).version
    watching = dataclasses.replace(config, graph=versions.out, query_store=store, reload_seconds=QUICK)
    count = f"SELECT ?n {{ GRAPH <{EX}atlas> {{ <{EX}Paris> <{EX}population> ?n }} }}"

    def ask() -> tuple[str, str]:
        response = client.query(count)
        [row] = response.solutions.rows
        return response.graph_version, row.terms[0].literal.lexical_form

    with BackgroundServer(watching) as server, Client(server.address, timeout=120) as client:
        assert ask() == (old, "1000001")
        new = compile_store([versions.source(2)], store).version
        asyncio.run(until(lambda: ask() in {(new, "1000002")} or ask() not in {(old, "1000001"), (new, "1000002")}))
        assert ask() == (new, "1000002")
        shutil.rmtree(store / "oxigraph")
        os.utime(store)
        (store / "store.json").touch()
        for _ in range(20):
            assert ask() == (new, "1000002")


def test_the_open_inference_protocol_names_the_version_too(config: ServerConfig, versions: Versions) -> None:
    old = versions.put(1)
    watching = dataclasses.replace(config, graph=versions.out, reload_seconds=QUICK)
    request = service_pb2.ModelInferRequest(
        model_name="tiny",
        inputs=[service_pb2.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[2, 1])],
        outputs=[service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="graph_version")],
        raw_input_contents=[b"".join(struct.pack("<I", len(text)) + text.encode() for text in TEXTS[:2])],
    )
    with (
        BackgroundServer(watching) as server,
        Client(server.address) as client,
        grpc.insecure_channel(server.address) as channel,
    ):
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[arg-type]

        def versions_told() -> tuple[bytes, str]:
            [content] = stub.ModelInfer(request).raw_output_contents
            config_ = stub.ModelConfig(service_pb2.ModelConfigRequest(name="tiny")).config
            return content, config_.parameters["graph_version"].string_value

        def told(version: str) -> tuple[bytes, str]:
            return 2 * (struct.pack("<I", len(version)) + version.encode()), version

        assert versions_told() == told(old)
        new = versions.put(2)
        asyncio.run(until(lambda: client.get_graph().version == new))
        assert versions_told() == told(new)
