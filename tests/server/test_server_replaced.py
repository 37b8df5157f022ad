"""What is replaced or damaged while a server answers: bundles, graphs cut short by a full disk, certificates."""

import asyncio
import dataclasses
import random
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest
from authority import Authority
from processes import ServeProcess
from serving import TEXTS, TRIG, Direct, direct_model, until
from test_server_metrics import scrape
from test_server_security import needs_openssl, secured, served_certificate, trusting
from tiny_bundle import write_tiny_bundle

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from small_server import text_request

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2 as oip
from groundwire.inference import service_pb2_grpc
from groundwire.kg import CompiledGraphError, Retriever, open_graph
from groundwire.server.app import BackgroundServer
from groundwire.server.client import AsyncClient, Client
from groundwire.server.config import ServerConfig

CLIENTS = 6
VERSIONS = 4


def close_to(direct: Direct, text: str, given: object) -> bool:
    return np.allclose(given, direct(text)["probabilities"], atol=1e-6)


async def more_of(answered: list[int], tasks: list["asyncio.Task[None]"]) -> None:
    """Wait until every client had two more answers, or one of them failed."""
    before = list(answered)
    await until(
        lambda: all(a > b + 2 for a, b in zip(answered, before, strict=True)) or any(task.done() for task in tasks)
    )


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_answer_is_dropped_or_mixed_while_a_bundle_is_replaced(
    graph: Path, retriever: Retriever, tmp_path: Path, workers: int
) -> None:
    """Each version has other weights: an answer must be that of the version that it names."""
    models, staged = tmp_path / "models" / "claims", tmp_path / "staged"
    models.mkdir(parents=True)
    staged.mkdir()
    directs: dict[str, Direct] = {}

    def put(number: int) -> None:
        bundle = write_tiny_bundle(staged / str(number), f"claims-{number}", seed=number)
        directs[str(number)] = direct_model(bundle, retriever)
        bundle.path.rename(models / str(number))

    put(1)
    options = ("--models", str(models.parent), "--model-control", "explicit", "--load-model", "*")
    with ServeProcess(None, graph, *options, "--workers", str(workers)) as server:
        answered, seen, stop = [0] * CLIENTS, set(), asyncio.Event()

        async def ask(number: int) -> None:
            rng = random.Random(number)
            own = (("grpc.use_local_subchannel_pool", 1),)
            async with grpc.aio.insecure_channel(server.address, own) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                while not stop.is_set():
                    texts = [f"{rng.choice(TEXTS)} {rng.randrange(50)}" for _ in range(rng.randint(1, 8))]
                    asked = text_request(texts)
                    asked.model_name = "claims"
                    response = await stub.ModelInfer(asked, timeout=60)
                    rows = np.frombuffer(response.raw_output_contents[0], np.float32).reshape(len(texts), -1)
                    direct = directs[response.model_version]
                    assert all(close_to(direct, text, row) for text, row in zip(texts, rows, strict=True))
                    seen.add(response.model_version)
                    answered[number] += 1

        tasks = [asyncio.create_task(ask(number)) for number in range(CLIENTS)]
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for number in range(2, VERSIONS + 1):
                await more_of(answered, tasks)
                await asyncio.to_thread(put, number)
                await stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="claims"), timeout=60)
        await more_of(answered, tasks)
        stop.set()
        await asyncio.gather(*tasks)
        assert seen >= {"1", str(VERSIONS)}
        assert not server.events("bug")


def test_a_bundle_that_is_damaged_under_a_running_server_changes_no_answer(
    config: ServerConfig, tiny: Bundle, direct: Direct, tmp_path: Path
) -> None:
    """The server has what it hashed, and does not go back to the files."""
    copy = Path(shutil.copytree(tiny.path, tmp_path / "copy"))
    with (
        BackgroundServer(dataclasses.replace(config, bundles=(copy,))) as server,
        Client(server.address) as client,
    ):
        for file in copy.iterdir():
            file.write_bytes(b"\0" * 10)
        for text in TEXTS:
            [prediction] = client.predict([f"{text} again"]).predictions
            assert close_to(direct, f"{text} again", [score.probability for score in prediction.scores])
        shutil.rmtree(copy)
        assert client.get_model().manifest == tiny.manifest


# The limit is set by the child itself: what a fork of this process runs before it is another meets gRPC's threads.
COMPILE = """
import resource, sys
most = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
from groundwire.cli import main
main(sys.argv[1:])
"""


def test_a_full_disk_while_a_graph_is_compiled_leaves_the_old_one_serving(
    config: ServerConfig, direct: Direct, graph_file: Path, tmp_path: Path
) -> None:
    """Files can't grow beyond a few bytes, which the compiler meets as it would meet a full disk: writing fails."""

    def compile_into(out: Path, most: int = resource.RLIM_INFINITY) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", COMPILE, str(most), "kg", "compile", str(source), "--out", str(out)],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    source, out = tmp_path / "places.trig", tmp_path / "graph"
    shutil.copy(graph_file, source)
    assert compile_into(out).returncode == 0
    watching = dataclasses.replace(config, graph=out, reload_seconds=0.02, metrics="127.0.0.1:0")
    with BackgroundServer(watching) as server, Client(server.address) as client:
        old = client.get_graph().version
        source.write_text(TRIG.replace("2100000", "2100001"), encoding="utf-8")
        for most in (100, 2_000):
            failed = compile_into(out, most)
            assert failed.returncode != 0
            assert "make room, or choose another folder" in failed.stderr
            assert "Traceback" not in failed.stderr
            assert [path.name for path in tmp_path.iterdir() if path.name not in {"places.trig", "graph"}] == []
            [prediction] = client.predict([TEXTS[0]]).predictions
            assert close_to(direct, TEXTS[0], [score.probability for score in prediction.scores])
            assert client.get_graph().version == old
        assert scrape(server.metrics_address)["groundwire_graph_reloads_total"][("refused", "graph")] == 0
        assert compile_into(out).returncode == 0
        asyncio.run(until(lambda: client.get_graph().version != old))


def test_a_graph_that_is_cut_short_anywhere_is_refused(config: ServerConfig, graph: Path, tmp_path: Path) -> None:
    """What a copy leaves when the disk is full: any one file shorter than it was, or empty, or missing."""
    serving, old = tmp_path / "serving", ""
    shutil.copytree(graph, serving)
    watching = dataclasses.replace(config, graph=serving, reload_seconds=0.02, metrics="127.0.0.1:0")
    with BackgroundServer(watching) as server, Client(server.address) as client:
        old = client.get_graph().version
        refused = 0
        for name in sorted(path.name for path in graph.iterdir()):
            size = (graph / name).stat().st_size
            # A document without the end of its last line is still whole.
            for keep in sorted({0, size // 2, size - (2 if name.endswith(".json") else 1)}) if size else ():
                broken = tmp_path / "broken"
                shutil.copytree(graph, broken)
                with (broken / name).open("r+b") as stream:
                    stream.truncate(keep)
                with pytest.raises(CompiledGraphError):
                    open_graph(broken)
                if keep == size // 2:
                    serving.rename(tmp_path / f"before-{name}")
                    broken.rename(serving)
                    refused += 1
                    asyncio.run(until(lambda n=refused: reloads(server)["refused"] >= n))
                    answer = client.predict([TEXTS[0]])
                    assert answer.graph_version == client.get_graph().version == old
                else:
                    shutil.rmtree(broken)
        assert refused > 10
        assert reloads(server)["accepted"] == 0


def reloads(server: BackgroundServer) -> dict[str, float]:
    return {
        outcome: value
        for (outcome, _), value in scrape(server.metrics_address)["groundwire_graph_reloads_total"].items()
    }


@needs_openssl
async def test_certificates_are_renewed_under_load_without_a_lost_call(
    config: ServerConfig, direct: Direct, tmp_path: Path
) -> None:
    """Clients with a connection that stays, and clients with a new one for each call."""
    authority = Authority(tmp_path / "authority")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(name: str) -> str:
        for source, target in zip(authority.issue(name), (certificate, key), strict=True):
            source.replace(target)  # not at one instant: the server must live with one of each
        return certificate.read_text().partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0].strip()

    install("first")
    with BackgroundServer(secured(config, tls_cert=certificate, tls_key=key)) as server:
        answered, stop = [0] * CLIENTS, asyncio.Event()

        async def ask(number: int) -> None:
            rng = random.Random(number)
            while not stop.is_set():
                async with AsyncClient(server.address, credentials=trusting(authority)) as client:
                    for _ in range(1 if number % 2 else 1_000):
                        text = f"{rng.choice(TEXTS)} {number}"
                        [prediction] = (await client.predict([text])).predictions
                        assert close_to(direct, text, [score.probability for score in prediction.scores])
                        answered[number] += 1
                        if stop.is_set():
                            break

        tasks = [asyncio.create_task(ask(number)) for number in range(CLIENTS)]
        for number in range(4):
            await more_of(answered, tasks)
            installed = await asyncio.to_thread(install, f"renewed-{number}")
            assert await asyncio.to_thread(served_certificate, server.address) == installed
        await more_of(answered, tasks)
        stop.set()
        await asyncio.gather(*tasks)
