"""Processes that evaluate queries: replaced stores, callers that leave, and what a client may know of the disk."""

import asyncio
import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from serving import TRIG, until
from test_server_query import ended, workers

from groundwire.kg import compile_store
from groundwire.kg.store import DATABASE
from groundwire.server import query_pool
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client, RemoteError
from groundwire.server.config import QueryLimits, ServerConfig
from groundwire.server.query_pool import QueryPool
from groundwire.server.query_worker import Outcome, evaluate
from groundwire.v1 import knowledge_pb2

COUNT = "SELECT (COUNT(*) AS ?n) { { ?s ?p ?o } UNION { GRAPH ?g { ?s ?p ?o } } }"


def asked(query: str) -> knowledge_pb2.QueryRequest:
    return knowledge_pb2.QueryRequest(query=query)


async def test_answers_are_not_shifted_when_a_caller_leaves_while_a_replaced_store_is_opened(
    query_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, other, source = tmp_path / "store", tmp_path / "other", tmp_path / "other.trig"
    shutil.copytree(query_store, store)
    source.write_text(TRIG + ":Oslo :population 700000 .", encoding="utf-8")
    compile_store([source], other)
    pool = await QueryPool(store, QueryLimits(workers=1)).open()
    try:
        process = pool._workers[0]._process
        assert process is not None
        os.kill(process.pid, 9)
        await until(process.ended)
        start, starts = query_pool._Process.start, 0

        async def replaced_and_left() -> query_pool._Process:
            nonlocal starts
            starts += 1
            if starts == 1:
                store.rename(tmp_path / "old")
                other.rename(store)
            process = await start()
            if starts == 2:  # it opens the new store, and has not said so yet
                asyncio.get_running_loop().call_soon(leaving.cancel)
            return process

        monkeypatch.setattr(query_pool._Process, "start", staticmethod(replaced_and_left))
        leaving = asyncio.create_task(pool.query(asked("ASK {}"), None))
        with pytest.raises(asyncio.CancelledError):
            await leaving
        monkeypatch.undo()
        assert starts == 2
        assert (await pool.query(asked("ASK {}"), None)).boolean
        counted = await pool.query(asked(COUNT), None)
        assert counted.solutions.rows[0].terms[0].literal.lexical_form == str(query_pool.store_info(store).quads)
    finally:
        await pool.close()


@pytest.mark.parametrize("broken", ["gone", "damaged"])
def test_a_store_that_breaks_while_it_is_served_tells_clients_no_path(
    config: ServerConfig, query_store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    store = tmp_path / "store"
    shutil.copytree(query_store, store)
    others = set(workers())
    asking = dataclasses.replace(config, query_store=store, query=QueryLimits(workers=1), reload_seconds=0)
    with BackgroundServer(asking) as server, Client(server.address, timeout=120) as client:
        client.query("ASK {}")
        if broken == "gone":
            shutil.rmtree(store)
        else:
            shutil.rmtree(store / DATABASE)
            (store / DATABASE).mkdir()
        running = set(workers()) - others  # has its files open; what is started after it has not
        for worker in running:
            os.kill(worker, 9)
            asyncio.run(until(lambda gone=worker: ended(gone)))
        with pytest.raises(RemoteError) as refused:
            client.query("ASK {}")
    assert refused.value.code == "FAILED_PRECONDITION"
    assert "the server's log" in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    [line] = [record for record in caplog.records if record.message == "query store unreadable"]
    assert str(store) in line.fields["error"]


def test_a_file_that_can_not_be_read_is_told_apart_from_a_query_that_fails() -> None:
    class Broken:
        def __init__(self, error: Exception) -> None:
            self.error = error

        def query(self, _query: str) -> None:
            raise self.error

    outcomes = {kind: evaluate(Broken(kind("/disk/0001.sst")), "ASK {}", 1, 1)[0] for kind in (OSError, ValueError)}
    assert outcomes == {OSError: Outcome.UNREADABLE, ValueError: Outcome.FAILED}
