"""Models that change while a server answers: nothing is dropped or mixed, memory returns, every worker follows."""

import asyncio
import gc
import json
import shutil
import subprocess
import sys
import weakref
from importlib.util import find_spec
from pathlib import Path

import grpc
import numpy as np
import pytest
from asking import Asker
from processes import ServeProcess
from repositories import WIDTH, write_version
from serving import TEXTS, until
from test_server_tensors import arrays, request
from tiny_bundle import write_tiny_bundle

from groundwire.inference import service_pb2 as pb
from groundwire.inference import service_pb2_grpc
from groundwire.server.catalog import Catalog
from groundwire.server.config import Limits, RepositoryConfig
from groundwire.server.errors import ConfigurationError, UnknownModelError
from groundwire.server.live import open_live
from groundwire.server.model_control import ModelControl
from groundwire.server.model_opener import Opener
from groundwire.server.repository import ModelVersion, Repository
from groundwire.server.servable import Servable
from groundwire.server.sources import live_graph
from groundwire.server.text_model import TextModel

EXPLICIT = ("--model-control", "explicit", "--load-model", "*")
VERSIONS = 12
WEIGHTS = 13_000_000  # of 4 bytes: 50 MiB
MIB = 1 << 20
OWN = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own, which the kernel gives to any worker


async def hammer(address: str, seed: int, stop: asyncio.Event, answered: list[int]) -> set[int]:
    """Ask in a loop, one by one and by stream. Each answer must be that of the version that it names."""
    rng = np.random.default_rng(seed)
    seen: set[int] = set()

    def check(asked: np.ndarray, response: pb.ModelInferResponse) -> None:
        version = int(response.model_version)
        np.testing.assert_array_equal(arrays(response)["y"], asked + version)
        seen.add(version)
        answered[seed] += 1

    async with grpc.aio.insecure_channel(address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        while not stop.is_set():
            inputs = [rng.integers(0, 1000, (rng.integers(1, 5), WIDTH)).astype(np.float32) for _ in range(8)]
            for x, response in zip(
                inputs,
                await asyncio.gather(*(stub.ModelInfer(request("adder", x=x), timeout=60) for x in inputs)),
                strict=True,
            ):
                check(x, response)
            stream = stub.ModelStreamInfer(iter([request("adder", x=x) for x in inputs]), timeout=60)
            for x in inputs:
                response = await stream.read()
                assert not response.error_message
                check(x, response.infer_response)
    return seen


@pytest.mark.parametrize("workers", [1, 2])
async def test_no_answer_is_dropped_or_mixed_while_versions_are_replaced(tmp_path: Path, workers: int) -> None:
    write_version(tmp_path, "adder", 1)
    options = ("--models", str(tmp_path), *EXPLICIT, "--workers", str(workers))
    with ServeProcess(None, None, *options) as server:
        stop, answered = asyncio.Event(), [0] * 4
        tasks = [asyncio.create_task(hammer(server.address, seed, stop, answered)) for seed in range(4)]
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            for number in range(2, VERSIONS + 1):
                before = list(answered)
                await until(
                    lambda b=before: all(a > was for a, was in zip(answered, b, strict=True)) or any_done(tasks)
                )
                write_version(tmp_path, "adder", number)
                await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="adder"), timeout=60)
            before = list(answered)
            # Two rounds more of each: what is sent from now on can only be answered by the last version.
            await until(lambda: all(a > was + 32 for a, was in zip(answered, before, strict=True)) or any_done(tasks))
        stop.set()
        seen = await asyncio.gather(*tasks)
        assert all({1, VERSIONS} <= each for each in seen)
        assert len(set.union(*seen)) > 2
        closed = server.wait_for("model closed", workers * (VERSIONS - 1))
        assert {event["version"] for event in closed} == set(range(1, VERSIONS))
        server.terminate()
        assert server.wait() == 0


def any_done(tasks: list["asyncio.Task[set[int]]"]) -> bool:
    return any(task.done() for task in tasks)


def control_of(folder: Path, catalog: Catalog, opener: type[Opener] = Opener) -> ModelControl:
    repository = Repository(folder)
    config = RepositoryConfig(folder, control="explicit", load=("*",))
    return ModelControl(config, repository, catalog, opener(repository, Limits(), "cpu", 1), 0)


async def added(model: Servable) -> float:
    answer = await model.infer({"x": np.zeros((1, WIDTH), np.float32)}, ["y"], {}, None)
    return float(answer["y"][0, 0])


async def test_a_call_keeps_the_version_that_it_began_with(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    catalog = Catalog()
    async with control_of(tmp_path, catalog) as control:

        async def states() -> dict[str, str]:
            return {line.version: line.state for line in await control.index()}

        with catalog.lease("adder", "") as first:
            write_version(tmp_path, "adder", 2)
            await control.load("adder")
            with catalog.lease("adder", "") as second:
                assert await states() == {"1": "UNLOADING", "2": "READY"}
                await control.unload("adder")
                assert await states() == {"1": "UNLOADING", "2": "UNLOADING"}
                assert (await added(first), await added(second)) == (1, 2)
            await until(lambda: not control._opener.leaving("adder", 2))
            assert await states() == {"1": "UNLOADING", "2": "UNAVAILABLE"}
            assert await added(first) == 1
        await until(lambda: not control._opener.leaving("adder", 1))
        assert await states() == {"1": "UNAVAILABLE", "2": "UNAVAILABLE"}


async def test_a_load_goes_on_when_its_caller_is_gone(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    catalog = Catalog()
    async with control_of(tmp_path, catalog) as control:
        write_version(tmp_path, "adder", 2)
        caller = asyncio.create_task(control.load("adder"))
        await asyncio.sleep(0)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        await until(lambda: catalog.versions("adder") == ["2"])


async def test_changes_at_once_are_made_one_after_the_other(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    catalog = Catalog()
    async with control_of(tmp_path, catalog) as control:
        changes = [control.unload("adder") if n % 2 else control.load("adder") for n in range(20)]
        await asyncio.gather(*changes, control.load("adder"))
        assert await added(catalog.get("adder", "")) == 1


class Replacing(Opener):
    """Opens as ever, but each of the first two versions is replaced after it was read."""

    left = 2

    def _tensor_model(self, version: ModelVersion):  # type: ignore[no-untyped-def]
        made = super()._tensor_model(version)
        if self.left:
            self.left -= 1
            write_version(version.path.parents[1], version.name, version.number, value=100 + self.left)
        return made


class Removing(Opener):
    """Opens as ever, but each version is gone after it was read."""

    def _tensor_model(self, version: ModelVersion):  # type: ignore[no-untyped-def]
        made = super()._tensor_model(version)
        shutil.rmtree(version.path)
        return made


async def test_files_that_are_replaced_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    catalog = Catalog()
    async with control_of(tmp_path, catalog, Replacing):
        assert await added(catalog.get("adder", "")) == 100
    async with control_of(tmp_path, catalog, Removing) as control:
        assert [(line.state, line.reason) for line in await control.index()] == [
            ("UNAVAILABLE", "it was removed while it was read")
        ]


async def test_what_is_unloaded_is_gone_without_a_garbage_collection(tmp_path: Path, graph: Path) -> None:
    write_version(tmp_path, "adder", 1)
    (tmp_path / "texts").mkdir()
    write_tiny_bundle(tmp_path / "texts" / "1")
    catalog, repository = Catalog(), Repository(tmp_path)
    config = RepositoryConfig(tmp_path, control="explicit", load=("*",))
    async with open_live(live_graph(graph), 0) as live:
        opener = Opener(repository, Limits(), "cpu", 1, live)
        async with ModelControl(config, repository, catalog, opener, 0) as control:
            text, tensor = (catalog.get(name, "") for name in ("texts", "adder"))
            assert isinstance(text, TextModel)
            parts = (text, text._pipeline, text._pipeline.runtime, text._pipeline._encoder, tensor)
            left = [weakref.ref(part) for part in parts]
            asked = {"text": np.array([[text.encode()] for text in TEXTS], dtype=object)}
            assert len((await text.infer(asked, ["label"], {}, None))["label"]) == len(TEXTS)
            assert await added(tensor) == 1
            del text, tensor, parts
            gc.disable()
            try:
                await control.unload("texts")
                await control.unload("adder")
                assert [part() for part in left] == [None] * len(left)
            finally:
                gc.enable()


def test_memory_returns_when_a_model_is_unloaded(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1, weights=WEIGHTS)
    options = ("--models", str(tmp_path), "--model-control", "explicit")
    with ServeProcess(None, None, *options) as server, grpc.insecure_channel(server.address) as channel:
        ask = Asker(channel)

        def resident() -> float:
            """Memory of the server that belongs to no file, in MiB."""
            lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) * 1024 / MIB

        loaded, unloaded = [], []
        for _ in range(5):
            ask.load("adder")
            assert ask.add("adder") == (1, "1")
            loaded.append(resident())
            ask.unload("adder")
            unloaded.append(resident())
        size = WEIGHTS * 4 / MIB
        for before, after in zip(loaded, unloaded, strict=True):
            assert before - after > 0.9 * size, (loaded, unloaded)
        # The first time also pays for what every later one uses again.
        assert max(unloaded[1:]) - unloaded[0] < 0.3 * size, (loaded, unloaded)
        ask.load("adder")
        for number in range(2, 6):
            write_version(tmp_path, "adder", number, weights=WEIGHTS)
            ask.load("adder")
            server.wait_for("model closed", 5 + number - 1)
        assert resident() - unloaded[0] < 1.5 * size, resident()


async def test_an_unknown_model_is_none_of_the_repository(tmp_path: Path) -> None:
    async with control_of(tmp_path, Catalog()) as control:
        with pytest.raises(UnknownModelError):
            await control.load("nope")
        with pytest.raises(UnknownModelError):
            await control.unload("nope")


TRITON = """
import json, sys
import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

client = triton.InferenceServerClient(sys.argv[1])
said = {}

def index():
    lines = client.get_model_repository_index(as_json=True).get("models", [])
    return [[line["name"], line.get("version", ""), line["state"]] for line in lines]

def infer(version=""):
    given = triton.InferInput("x", [1, 4], "FP32")
    given.set_data_from_numpy(np.zeros((1, 4), np.float32))
    return float(client.infer("adder", [given], model_version=version).as_numpy("y")[0, 0])

def attempt(call, *arguments, **named):
    try:
        return [call(*arguments, **named), ""]
    except InferenceServerException as error:
        return [error.status(), error.message()]

said["before"] = index(), client.is_model_ready("adder"), client.is_server_ready()
client.load_model("adder")
said["loaded"] = index(), client.is_model_ready("adder"), client.is_model_ready("adder", "1"), infer(), infer("2")
said["versions"] = client.get_model_metadata("adder", as_json=True)["versions"]
said["extensions"] = client.get_server_metadata(as_json=True)["extensions"]
said["config"] = attempt(client.load_model, "adder", config="{}", files={"file:1/model.onnx": b"x"})
said["nope"] = attempt(client.load_model, "nope")
client.unload_model("adder")
said["unloaded"] = index(), client.is_model_ready("adder"), attempt(infer)
print(json.dumps(said))
"""


@pytest.mark.skipif(find_spec("tritonclient") is None, reason="needs tritonclient[grpc]")
def test_tritonclient_loads_and_unloads(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    write_version(tmp_path, "adder", 2)
    options = ("--models", str(tmp_path), "--model-control", "explicit", "--model-versions", "2")
    with ServeProcess(None, None, *options) as server:
        done = subprocess.run(
            [sys.executable, "-c", TRITON, server.address], capture_output=True, text=True, timeout=120, check=False
        )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    none, both = ([["adder", "1", state], ["adder", "2", state]] for state in ("UNAVAILABLE", "READY"))
    assert said["before"] == [none, False, True]
    assert said["loaded"] == [both, True, True, 2, 2]
    assert said["versions"] == ["1", "2"]
    assert "model_repository" in said["extensions"]
    assert said["config"][0] == "StatusCode.INVALID_ARGUMENT"
    assert said["nope"][0] == "StatusCode.NOT_FOUND"
    index, ready, infer = said["unloaded"]
    assert (index, ready, infer[0]) == (none, False, "StatusCode.UNAVAILABLE")


async def test_a_version_whose_folder_cannot_be_read_again_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_version(tmp_path, "adder", 1)
    repository = Repository(tmp_path)
    found = repository.find("adder")
    assert found is not None

    def unreadable(_: str) -> None:
        raise ConfigurationError("adder can't be read")

    monkeypatch.setattr(repository, "find", unreadable)
    opener = Opener(repository, Limits(), "cpu", 1)
    with pytest.raises(ConfigurationError, match="can't be read"):
        await opener.open(found[1])
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "tensor-batcher"]
    await opener.close()
