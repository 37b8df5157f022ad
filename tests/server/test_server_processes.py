"""Signals and worker processes: `groundwire serve` from outside."""

import asyncio
import os
import random
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import ServeProcess
from serving import TEXTS, Direct, predict_singly, until

from groundwire.bundle import Bundle
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.v1 import prediction_pb2

CLIENTS = 12


async def ask_until_refused(address: str, name: int, direct: Direct, answered: list[int]) -> str:
    """Ask different things in a loop, checking and counting each answer, until refused. Returns why it ended."""
    rng = random.Random(name)
    options = prediction_pb2.PredictOptions(contributions=True, probes=4)
    async with AsyncClient(address) as client:
        while True:
            texts = [f"{rng.choice(TEXTS)} {name}" for _ in range(rng.randint(1, 8))]
            try:
                response = await client.predict(texts, options=options)
            except RemoteError as error:
                assert error.code == "UNAVAILABLE", error  # noqa: PT017 - an answer is as welcome
                return str(error)
            for text, prediction in zip(texts, response.predictions, strict=True):
                scores = [score.probability for score in prediction.scores]
                np.testing.assert_allclose(scores, direct(text)["probabilities"], atol=1e-6)
            answered[name] += 1


@pytest.mark.parametrize("workers", [1, 2])
async def test_sigterm_under_load_loses_nothing_that_was_accepted(
    tiny: Bundle, graph, direct: Direct, workers: int
) -> None:
    with ServeProcess(tiny.path, graph, "--workers", str(workers)) as server:
        answered = [0] * CLIENTS
        tasks = [asyncio.create_task(ask_until_refused(server.address, n, direct, answered)) for n in range(CLIENTS)]
        await until(lambda: min(answered) > 1 or any(task.done() for task in tasks))
        assert not any(task.done() for task in tasks)
        server.terminate()
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*tasks)
        assert await asyncio.to_thread(server.wait) == 0
        stops = server.events("stopped")
        assert [stop["unanswered"] for stop in stops] == [0] * workers
        assert len(server.events("draining")) >= workers
        assert not server.events("bug")
    # A call that broke off after it was accepted would end with a reset connection, not with one of these.
    for why in outcomes:
        assert any(words in why for words in ("shutting down", "refused", "GOAWAY", "draining")), why


def test_a_second_signal_ends_at_once(tiny: Bundle, graph) -> None:
    # The model's thread sleeps, so that the drain can't end by itself.
    prelude = (
        "import time; from groundwire.server.runtime import Runtime; "
        "Runtime.__init__ = (lambda original: lambda self, *a: (original(self, *a), "
        "setattr(self, 'run', lambda rows: time.sleep(600)))[0])(Runtime.__init__); "
    )
    with ServeProcess(tiny.path, graph, prelude=prelude) as server:

        async def ask() -> None:
            async with AsyncClient(server.address) as client:
                task = asyncio.create_task(client.predict([TEXTS[0]]))
                await asyncio.sleep(0.5)
                server.terminate()
                await asyncio.to_thread(server.wait_for, "draining")
                assert server.process.poll() is None
                server.terminate()
                with pytest.raises(RemoteError):
                    await task

        asyncio.run(ask())
        assert server.wait() == 128 + signal.SIGTERM


def test_a_killed_worker_is_replaced_while_the_others_serve(tiny: Bundle, graph) -> None:
    with ServeProcess(tiny.path, graph, "--workers", "2") as server:
        first, second = (event["worker"] for event in server.wait_for("worker ready", 2))
        with Client(server.address) as client:
            expected = predict_singly(client)
        os.kill(first, signal.SIGKILL)
        [death] = server.wait_for("worker died")
        assert (death["worker"], death["exit"]) == (first, -signal.SIGKILL)
        with Client(server.address) as client:
            assert predict_singly(client) == expected  # by the one that is left
        replacement = server.wait_for("worker ready", 3)[2]["worker"]
        assert replacement not in {first, second}
        os.kill(second, signal.SIGKILL)
        server.wait_for("worker died", 2)
        with Client(server.address) as client:
            assert predict_singly(client) == expected  # by the replacement
        server.wait_for("worker ready", 4)
        server.terminate()
        assert server.wait() == 0


def test_workers_end_with_their_supervisor(tiny: Bundle, graph) -> None:
    with ServeProcess(tiny.path, graph, "--workers", "2") as server:
        server.wait_for("worker ready", 2)
        server.process.kill()
        server.wait()
        assert len(server.wait_for("stopped", 2)) == 2


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_in_use_is_refused(tiny: Bundle, graph, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        server = ServeProcess(tiny.path, graph, "--listen", address, "--workers", workers)
        with pytest.raises(AssertionError), server:
            pass
    text = "".join(str(event.get("line", "")) for event in server.events("other"))
    assert "--listen" in text


def test_workers_that_cannot_start_end_the_supervisor(tiny: Bundle, graph, tmp_path) -> None:
    server = ServeProcess(tmp_path / "nowhere", graph, "--workers", "2")
    with pytest.raises(AssertionError), server:
        pass
    text = "".join(str(event.get("line", "")) for event in server.events("other"))
    assert "groundwire build" in text
    assert "a worker could not start" in text


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_signal_while_the_workers_start_harms_nothing(tiny: Bundle, graph, number: signal.Signals) -> None:
    server = ServeProcess(tiny.path, graph, "--workers", "2")
    process = server.start()
    try:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text().split():
            assert process.poll() is None
        process.send_signal(number)
        if number == signal.SIGTERM:
            assert server.wait() == 0
        else:
            server.wait_for("worker ready", 2)
            server.terminate()
            assert server.wait() == 0
            assert not server.events("worker died")
    finally:
        server.__exit__(None, None, None)


def test_a_worker_that_says_what_none_says_is_replaced(tiny: Bundle, graph, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
        if mkdir {tmp_path}/once 2>/dev/null; then
            echo listening on nothing
            head -c 200000 /dev/zero | tr '\\0' x
            echo
            exec sleep 600
        fi
        exec {sys.executable} "$@"
        """
    )
    python.chmod(0o755)
    prelude = f"import sys; sys.executable = {str(python)!r}; "
    with ServeProcess(tiny.path, graph, "--workers", "2", prelude=prelude) as server:
        server.wait_for("worker misspoke", 1)
        server.wait_for("worker ready", 3)
        with Client(server.address) as client:
            assert len(client.predict(TEXTS).predictions) == len(TEXTS)
        server.terminate()
        assert server.wait() == 0
