"""Models that change in a server of several workers: every worker follows, and those that replace dead ones."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import grpc
import pytest
from asking import Asker, refused
from processes import ServeProcess
from repositories import break_version, write_version
from serving import until

from groundwire.inference import service_pb2 as pb
from groundwire.inference import service_pb2_grpc

EXPLICIT = ("--model-control", "explicit", "--load-model", "*")
VERSIONS = 12
WEIGHTS = 13_000_000  # of 4 bytes: 50 MiB
MIB = 1 << 20
OWN = (("grpc.use_local_subchannel_pool", 1),)  # a connection of its own, which the kernel gives to any worker


def ask_all(address: str, model: str, calls: int = 24) -> set[str]:
    """Versions that answer, or the code of the refusal, over many connections: the kernel spreads them."""
    found = set()
    for _ in range(calls):
        with grpc.insecure_channel(address, OWN) as channel:
            try:
                found.add(Asker(channel).add(model)[1])
            except grpc.RpcError as error:
                found.add(error.code().name)
    return found


def test_a_change_reaches_every_worker_and_those_that_replace_dead_ones(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    write_version(tmp_path, "other", 1)
    options = ("--models", str(tmp_path), "--model-control", "explicit", "--load-model", "other", "--workers", "3")
    with ServeProcess(None, None, *options) as server, grpc.insecure_channel(server.address) as channel:
        ask = Asker(channel)
        assert ask_all(server.address, "adder") == {"NOT_FOUND"}
        ask.load("adder")
        assert ask_all(server.address, "adder") == {"1"}
        write_version(tmp_path, "adder", 2)
        ask.load("adder")
        ask.unload("other")
        assert ask_all(server.address, "adder") == {"2"}
        assert ask_all(server.address, "other") == {"UNAVAILABLE"}
        break_version(tmp_path, "adder", 3)
        with refused("FAILED_PRECONDITION", "version 3", "version 2 answers"):
            ask.load("adder")
        with refused("NOT_FOUND", "holds no model named nope"):
            ask.load("nope")
        for name in ("../adder", "a" * 100_000, "ü" * 20_000):  # more than a pipe's reader takes for a line
            with refused("INVALID_ARGUMENT", "no name of a model"):
                ask.unload(name)
        assert not server.events("worker died")
        shutil.rmtree(tmp_path / "adder" / "3")
        for event in server.wait_for("worker ready", 3):
            os.kill(event["worker"], signal.SIGKILL)
        server.wait_for("worker ready", 6)
        assert ask_all(server.address, "adder") == {"2"}
        assert ask_all(server.address, "other") == {"NOT_FOUND"}
        # By a new connection: the one above was to a worker that is dead.
        with grpc.insecure_channel(server.address, OWN) as again:
            Asker(again).unload("adder")
        assert ask_all(server.address, "adder") == {"UNAVAILABLE"}
        server.terminate()
        assert server.wait() == 0


async def test_changes_that_reach_two_workers_at_once_leave_them_alike(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with ServeProcess(None, None, "--models", str(tmp_path), *EXPLICIT, "--workers", "2") as server:

        async def change(number: int) -> None:
            async with grpc.aio.insecure_channel(server.address, OWN) as channel:
                stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                if number % 2:
                    await stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="adder"), timeout=60)
                else:
                    await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="adder"), timeout=60)

        for _ in range(3):
            await asyncio.gather(*(change(number) for number in range(16)))
            assert len(await asyncio.to_thread(ask_all, server.address, "adder")) == 1


async def test_a_worker_that_dies_amid_changes_holds_up_no_other(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with ServeProcess(None, None, "--models", str(tmp_path), *EXPLICIT, "--workers", "3") as server:
        asked, stop = 0, asyncio.Event()
        refusals: set[str] = set()

        async def change() -> None:
            nonlocal asked
            while not stop.is_set():
                async with grpc.aio.insecure_channel(server.address, OWN) as channel:
                    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
                    try:
                        await stub.RepositoryModelUnload(
                            pb.RepositoryModelUnloadRequest(model_name="adder"), timeout=60
                        )
                        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="adder"), timeout=60)
                    except grpc.aio.AioRpcError as error:
                        refusals.add(error.code().name)
                asked += 1

        tasks = [asyncio.create_task(change()) for _ in range(3)]
        for event in server.wait_for("worker ready", 3):
            before = asked
            await until(lambda b=before: asked > b + 3 or any(task.done() for task in tasks))
            os.kill(event["worker"], signal.SIGKILL)
        await asyncio.to_thread(server.wait_for, "worker ready", 6)
        stop.set()
        await asyncio.gather(*tasks)
        assert refusals <= {"UNAVAILABLE"}  # of those that died
        with grpc.insecure_channel(server.address, OWN) as channel:
            await asyncio.to_thread(Asker(channel).load, "adder")
        assert await asyncio.to_thread(ask_all, server.address, "adder") == {"1"}
        server.terminate()
        assert server.wait() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_looks_at_a_folder_that_is_polled(tmp_path: Path, workers: int) -> None:
    write_version(tmp_path, "adder", 1)
    options = ("--model-control", "poll", "--reload-seconds", "0", "--workers", str(workers))
    with ServeProcess(None, None, "--models", str(tmp_path), *options) as server:
        server.wait_for("model ready", workers)
        write_version(tmp_path, "adder", 2)
        server.process.send_signal(signal.SIGHUP)
        events = server.wait_for("model ready", 2 * workers)
        assert [event["versions"] for event in events] == [[1]] * workers + [[2]] * workers
        assert ask_all(server.address, "adder") == {"2"}


def test_changes_that_clients_may_not_make_reach_no_other_worker(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with (
        ServeProcess(None, None, "--models", str(tmp_path), "--workers", "2") as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        with refused("UNAVAILABLE", "not explicit"):
            Asker(channel).load("a" * 100_000)
        assert ask_all(server.address, "adder") == {"1"}
        assert not server.events("worker died")
