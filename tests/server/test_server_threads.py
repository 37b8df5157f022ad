"""gRPC's threads don't interrupt the event loop; all others are scheduled as they were."""

import os
import threading
from pathlib import Path

import pytest
from processes import ServeProcess

from groundwire.bundle import Bundle
from groundwire.server.client import Client
from groundwire.server.threads import yielding

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="the system has no such policy")


def policy_of_a_new_thread() -> int:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))
    thread.start()
    thread.join()
    return found[0]


def test_threads_started_inside_yield_and_the_others_do_not() -> None:
    with yielding():
        assert policy_of_a_new_thread() == os.SCHED_BATCH
    assert policy_of_a_new_thread() == os.sched_getscheduler(0) == os.SCHED_OTHER


def test_it_ends_with_an_error_too() -> None:
    with pytest.raises(ValueError, match="ours"), yielding():
        raise ValueError("ours")
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_a_process_that_has_a_policy_keeps_it() -> None:
    found: list[int] = []

    def idle() -> None:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        with yielding():
            found.append(os.sched_getscheduler(0))
        found.append(os.sched_getscheduler(0))

    thread = threading.Thread(target=idle)
    thread.start()
    thread.join()
    assert found == [os.SCHED_IDLE, os.SCHED_IDLE]


def test_a_sandbox_may_forbid_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with yielding():
        assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_only_threads_of_grpc_yield_in_a_server(tiny: Bundle, graph: Path) -> None:
    with ServeProcess(tiny.path, graph) as server, Client(server.address) as client:
        client.predict(["Paris"])
        main = server.process.pid
        policies: dict[str, set[int]] = {}
        for task in Path(f"/proc/{main}/task").iterdir():
            name = (task / "comm").read_text().strip()
            policies.setdefault("main" if task.name == str(main) else name, set()).add(
                os.sched_getscheduler(int(task.name))
            )
    assert policies["main"] == {os.SCHED_OTHER}
    assert policies["event_engine"] == {os.SCHED_BATCH}
    # The model's thread has the process's name, and so has the one that hands gRPC's events over.
    assert policies.keys() - {"event_engine", "main"}
    assert {os.SCHED_OTHER, os.SCHED_BATCH} <= set().union(*policies.values())
