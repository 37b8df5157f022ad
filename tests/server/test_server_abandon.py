"""A shutdown does not wait for what a reload is opening."""

import asyncio
import signal
import threading
from pathlib import Path

import pytest
from processes import ServeProcess
from repositories import write_version
from serving import TRIG, until

from groundwire.bundle import Bundle
from groundwire.kg import compile_graph
from groundwire.server import detached, model_opener
from groundwire.server.catalog import Catalog
from groundwire.server.config import Limits, RepositoryConfig
from groundwire.server.model_control import ModelControl
from groundwire.server.model_opener import Opener
from groundwire.server.repository import Repository
from groundwire.server.tensor_model import TensorModel

# Whatever is opened after the start takes longer than any test.
SLOW = """
import json, sys, time
from groundwire.server import {module}
opened, count = {module}.{name}, 0
def slowly(*arguments, **options):
    global count
    count += 1
    if count > 1:
        print(json.dumps({{"event": "opening"}}), file=sys.stderr, flush=True)
        time.sleep(600)
    return opened(*arguments, **options)
{module}.{name} = slowly
"""


def slow(module: str, name: str) -> str:
    return SLOW.format(module=module, name=name)


def assert_ends_while_opening(server: ServeProcess) -> None:
    server.wait_for("opening")
    server.terminate()
    assert server.wait() == 0
    assert server.events("stopped")[0]["unanswered"] == 0
    assert server.events("reload abandoned")
    assert server.events("other") == []


@pytest.mark.parametrize("asked", ["signal", "poll"])
def test_a_shutdown_does_not_wait_for_a_graph_that_opens_slowly(
    tiny: Bundle, graph_file: Path, tmp_path: Path, asked: str
) -> None:
    out, other = tmp_path / "graph", tmp_path / "other.trig"
    compile_graph([graph_file], out)
    seconds = "0" if asked == "signal" else "0.05"
    with ServeProcess(tiny.path, out, "--reload-seconds", seconds, prelude=slow("sources", "open_graph")) as server:
        other.write_text(TRIG + ":Oslo :population 700000 .", encoding="utf-8")
        compile_graph([other], out)
        if asked == "signal":
            server.process.send_signal(signal.SIGHUP)
        assert_ends_while_opening(server)


def test_a_shutdown_does_not_wait_for_a_model_that_opens_slowly(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    options = ("--models", str(tmp_path), "--model-control", "poll", "--reload-seconds", "0.05")
    with ServeProcess(None, None, *options, prelude=slow("model_opener", "TensorModel")) as server:
        write_version(tmp_path, "adder", 2)
        assert_ends_while_opening(server)


async def test_what_was_opened_beside_it_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two versions the first is open already when the control closes, and the second is never waited for."""
    go, opening = threading.Event(), threading.Event()

    def second_slowly(*arguments: object, **options: object) -> TensorModel:
        if options["version"] == "2":
            opening.set()
            assert go.wait(60)
        return TensorModel(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(model_opener, "TensorModel", second_slowly)
    repository = Repository(tmp_path)
    config = RepositoryConfig(tmp_path, versions=2, control="explicit")
    async with ModelControl(config, repository, Catalog(), Opener(repository, Limits(), "cpu", 1), 0) as control:
        write_version(tmp_path, "adder", 1)
        write_version(tmp_path, "adder", 2)
        loading = asyncio.create_task(control.load("adder"))
        await until(opening.is_set)
    assert loading.cancelled() or (await asyncio.wait([loading]) and loading.cancelled())
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "tensor-batcher"]
    assert detached.is_running()
    go.set()
    await until(lambda: not detached.is_running())
