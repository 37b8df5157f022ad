"""Signals and failures from outside that a server of several processes must outlive without losing a call."""

import asyncio
import os
import resource
import signal
from pathlib import Path

import numpy as np
from processes import ServeProcess
from serving import TEXTS, Direct, until
from test_server_metrics import scrape

from groundwire.bundle import Bundle
from groundwire.server.client import AsyncClient, Client


async def test_a_signal_to_every_process_at_once_loses_nothing(tiny: Bundle, graph: Path, direct: Direct) -> None:
    """As a service manager stops a service: it signals the supervisor and the workers, and the supervisor them too."""
    options = ("--workers", "2", "--batch-delay-ms", "4000", "--metrics", "127.0.0.1:0")
    with ServeProcess(tiny.path, graph, *options) as server:
        workers = [line["worker"] for line in server.wait_for("worker ready", 2)]
        metrics = server.wait_for("metrics")[0]["address"]
        async with AsyncClient(server.address) as client:
            asking = asyncio.create_task(client.predict([TEXTS[0]]))
            await until(lambda: any(scrape(metrics).get("groundwire_queue_rows", {}).values()))
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
            await asyncio.to_thread(server.wait_for, "draining", 2)
            server.terminate()
            [prediction] = (await asking).predictions
        scores = [score.probability for score in prediction.scores]
        np.testing.assert_allclose(scores, direct(TEXTS[0])["probabilities"], atol=1e-6)
        assert await asyncio.to_thread(server.wait) == 0
        assert [line["unanswered"] for line in server.events("stopped")] == [0, 0]


def test_a_worker_that_can_not_be_started_again_ends_no_other(tiny: Bundle, graph: Path) -> None:
    with ServeProcess(tiny.path, graph, "--workers", "2") as server:
        first, second = (line["worker"] for line in server.wait_for("worker ready", 2))
        supervisor = server.process.pid
        before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (3, before[1]))  # no pipe can be made
        os.kill(first, signal.SIGKILL)
        server.wait_for("worker can't be started")
        with Client(server.address) as client:
            assert client.predict(TEXTS).predictions
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
        assert server.wait_for("worker ready", 3)[2]["worker"] not in {first, second}
        server.terminate()
        assert server.wait() == 0
