"""SPARQL over the wire: answers, limits, cancellation, and no way out."""

import asyncio
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner
from processes import ServeProcess
from serving import until

from groundwire.cli.kg import kg
from groundwire.kg import StoreError
from groundwire.server.app import BackgroundServer
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.server.config import QueryLimits, ServerConfig
from groundwire.server.errors import ConfigurationError
from groundwire.v1 import knowledge_pb2, knowledge_pb2_grpc

EX = "http://example.org/"
PREFIX = f"PREFIX : <{EX}> PREFIX rdfs: <http://www.w3.org/2000/01/rdf-schema#> "
# About 20 triples to the tenth power.
ENDLESS = "SELECT (COUNT(*) AS ?n) {" + " ".join(f"?s{n} ?p{n} ?o{n} ." for n in range(10)) + "}"
# Every row differs, and all are kept until the last one is known.
GREEDY = ENDLESS.replace("SELECT (COUNT(*) AS ?n)", "SELECT DISTINCT *") + " ORDER BY ?o1"


@pytest.fixture(scope="module")
def asking(config: ServerConfig, query_store: Path) -> ServerConfig:
    return dataclasses.replace(config, query_store=query_store)


@pytest.fixture(scope="module")
def queried(asking: ServerConfig) -> Iterator[Client]:
    with BackgroundServer(asking) as server, Client(server.address, timeout=120) as client:
        yield client


def workers(of: int = 0) -> list[int]:
    """Processes of a server, or of this process, that evaluate queries."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and b"query_worker" in (folder / "cmdline").read_bytes():
                parent = (folder / "stat").read_text().rsplit(")", 1)[1].split()[1]
                found += [int(folder.name)] if int(parent) == (of or os.getpid()) else []
        except OSError:
            continue  # it ended meanwhile
    return found


def ended(process: int) -> bool:
    """Whether a process has ended so far that who started it can know: a zombie whose other threads are gone."""
    place = Path(f"/proc/{process}")
    try:
        zombie = (place / "stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
        return zombie and len(list((place / "task").iterdir())) == 1
    except OSError:
        return True


def test_select_gives_terms_in_order_and_leaves_unbound_ones_empty(queried: Client) -> None:
    response = queried.query(
        PREFIX
        + "SELECT ?c ?n ?m { ?c rdfs:label ?n . OPTIONAL { ?c :motto ?m } FILTER(?c IN (:France, :Peru)) } ORDER BY ?n"
    )
    assert list(response.solutions.variables) == ["c", "n", "m"]
    france, peru = (list(row.terms) for row in response.solutions.rows)
    assert (france[0].iri, peru[0].iri) == (EX + "France", EX + "Peru")
    assert (france[1].literal.lexical_form, france[1].literal.language) == ("France", "en")
    assert france[1].literal.datatype == "http://www.w3.org/1999/02/22-rdf-syntax-ns#langString"
    assert peru[1].literal.datatype == "http://www.w3.org/2001/XMLSchema#string"
    assert france[2].literal.lexical_form == "Liberté"
    assert peru[2].WhichOneof("value") is None
    assert not response.truncated


def test_ask_and_construct_over_default_and_named_graphs(queried: Client) -> None:
    assert queried.query(PREFIX + "ASK { :Peru :continent :America }").boolean
    absent = queried.query(PREFIX + "ASK { :Paris :capitalOf :France }")  # only a named graph says so
    assert absent.WhichOneof("result") == "boolean" and not absent.boolean
    made = queried.query(PREFIX + "CONSTRUCT { ?c :in ?g } WHERE { GRAPH ?g { ?c :population ?n } }")
    found = {(triple.subject.iri, triple.predicate.iri, triple.object.iri) for triple in made.triples.triples}
    assert found == {
        (EX + a, EX + "in", EX + b) for a, b in (("Paris", "atlas"), ("Paris", "census"), ("Lyon", "census"))
    }
    nothing = queried.query(PREFIX + "CONSTRUCT WHERE { ?c :nowhere ?n }")
    assert nothing.WhichOneof("result") == "triples"


def test_answers_name_their_store_and_its_sources(queried: Client) -> None:
    response = queried.query("ASK {}")
    assert len(response.graph_version) == 64
    assert dict(response.source_hashes) == dict(queried.get_graph().source_hashes)


def test_rows_are_cut_and_the_answer_says_so(queried: Client) -> None:
    for query, count in (
        ("SELECT * { ?s ?p ?o }", lambda r: len(r.solutions.rows)),
        ("CONSTRUCT WHERE { ?s ?p ?o }", lambda r: len(r.triples.triples)),
    ):
        everything = queried.query(query)
        assert not everything.truncated
        cut = queried.query(query, max_rows=3)
        assert (count(cut), cut.truncated) == (3, True)
        whole = queried.query(query, max_rows=count(everything))
        assert (count(whole), whole.truncated) == (count(everything), False)


@pytest.mark.parametrize(
    ("query", "code", "what"),
    [
        ("SELECT *\n { ?s ?p }", "INVALID_ARGUMENT", r"line 2, column \d"),
        ("SELECT * { ?s ?p 'a }", "INVALID_ARGUMENT", "line 1, column 18"),
        ("", "INVALID_ARGUMENT", "empty"),
        ("SELECT * { SERVICE <http://127.0.0.1:9/> { ?s ?p ?o } }", "PERMISSION_DENIED", "SERVICE"),
        ("SELECT * FROM <http://127.0.0.1:9/> { ?s ?p ?o }", "PERMISSION_DENIED", "FROM"),
        ("LOAD <http://127.0.0.1:9/>", "PERMISSION_DENIED", "only read"),
        ("DELETE WHERE { ?s ?p ?o }", "PERMISSION_DENIED", "only read"),
        ("ASK { ?s ?p ?o } #" + "x" * 20_000, "INVALID_ARGUMENT", "16384"),
    ],
)  # fmt: skip
def test_refusals_say_why(queried: Client, query: str, code: str, what: str) -> None:
    with pytest.raises(RemoteError, match=what) as refused:
        queried.query(query)
    assert refused.value.code == code
    if code == "INVALID_ARGUMENT":
        assert refused.value.fields == ["query"]


@pytest.mark.parametrize("fields", [{"max_rows": 10_001}, {"timeout_seconds": 11.0}, {"timeout_seconds": -1.0}])
def test_limits_of_a_request_stay_below_those_of_the_server(queried: Client, fields: dict) -> None:
    with pytest.raises(RemoteError) as refused:
        queried.query("ASK {}", **fields)
    assert (refused.value.code, refused.value.fields) == ("INVALID_ARGUMENT", list(fields))


def test_queries_are_off_unless_asked_for(client: Client) -> None:
    with pytest.raises(RemoteError, match="--query-store") as refused:
        client.query("ASK {}")
    assert refused.value.code == "UNIMPLEMENTED"


def test_a_query_that_would_run_for_ever_ends_in_time_and_the_next_is_answered(queried: Client) -> None:
    with pytest.raises(RemoteError) as late:
        queried.query(ENDLESS, timeout_seconds=0.5)
    assert late.value.code == "DEADLINE_EXCEEDED"
    assert "did not end" in str(late.value)  # the server's own words, not the client's deadline
    assert queried.query("ASK {}").boolean


async def occupied(client: AsyncClient) -> "asyncio.Task[knowledge_pb2.QueryResponse]":
    """An endless query that has the only worker of the server."""
    endless = asyncio.create_task(client.query(ENDLESS))
    while True:
        try:
            await client.query("ASK {}", timeout_seconds=0.2)
        except RemoteError as error:
            assert error.code == "DEADLINE_EXCEEDED", error  # noqa: PT017 - an answer is as welcome
            return endless


async def test_others_are_answered_beside_an_endless_query(asking: ServerConfig) -> None:
    two = dataclasses.replace(asking, query=QueryLimits(seconds=600.0, workers=2))
    with BackgroundServer(two) as server:
        async with AsyncClient(server.address, timeout=600) as client:
            endless = asyncio.create_task(client.query(ENDLESS))
            for _ in range(5):
                assert (await client.query("ASK {}")).boolean
                assert (await client.ground(["Paris"])).results[0].mentions
                assert (await client.predict(["Paris"])).predictions
            assert not endless.done()
            endless.cancel()


async def test_no_more_wait_than_may(asking: ServerConfig) -> None:
    crowded = dataclasses.replace(asking, query=QueryLimits(seconds=600.0, workers=1, waiting=1))
    with BackgroundServer(crowded) as server:
        async with AsyncClient(server.address, timeout=600) as client:
            endless = await occupied(client)
            asks = [asyncio.create_task(client.query("ASK {}")) for _ in range(3)]
            await until(lambda: sum(ask.done() for ask in asks) == 2)
            for ask in asks:
                if ask.done():
                    refusal = ask.exception()
                    assert isinstance(refusal, RemoteError)
                    assert (refusal.code, refusal.retry_after) == ("RESOURCE_EXHAUSTED", 1.0)
            [waiting] = [ask for ask in asks if not ask.done()]
            endless.cancel()
            async with asyncio.timeout(60):
                assert (await waiting).boolean


async def test_a_client_that_leaves_frees_its_worker_and_none_outlives_the_server(asking: ServerConfig) -> None:
    single = dataclasses.replace(asking, query=QueryLimits(seconds=600.0, workers=1))
    others = set(workers())
    with BackgroundServer(single) as server:
        [worker] = set(workers()) - others
        async with AsyncClient(server.address, timeout=600) as client:
            for _ in range(2):
                endless = await occupied(client)
                endless.cancel()
                await until(lambda before=worker: before not in workers())
                assert (await client.query("ASK {}")).boolean
                [worker] = set(workers()) - others
    assert set(workers()) <= others


def test_the_deadline_of_the_call_counts_too(queried: Client) -> None:
    hasty = knowledge_pb2_grpc.KnowledgeServiceStub(queried._channel)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as late:
        hasty.Query(knowledge_pb2.QueryRequest(query=ENDLESS), timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert queried.query("ASK {}").boolean


def test_answers_and_evaluations_that_are_too_large_are_refused(asking: ServerConfig) -> None:
    small = QueryLimits(seconds=100.0, answer_bytes=2_000, memory_bytes=256 << 20, workers=1)
    with BackgroundServer(dataclasses.replace(asking, query=small)) as server, Client(server.address, 120) as client:
        with pytest.raises(RemoteError, match="larger than 2000 bytes") as large:
            client.query("SELECT * { ?s ?p ?o . ?a ?b ?c }")
        assert large.value.code == "RESOURCE_EXHAUSTED"
        with pytest.raises(RemoteError, match="memory") as greedy:
            client.query(GREEDY)
        assert greedy.value.code == "RESOURCE_EXHAUSTED"
        assert client.query("ASK {}").boolean


def test_a_worker_that_dies_idle_is_replaced(asking: ServerConfig) -> None:
    others = set(workers())
    single = dataclasses.replace(asking, query=QueryLimits(workers=1))
    with BackgroundServer(single) as server, Client(server.address, 120) as client:
        [worker] = set(workers()) - others
        os.kill(worker, 9)
        asyncio.run(until(lambda: ended(worker)))
        for _ in range(2):
            assert client.query("ASK {}").boolean


async def test_a_busy_worker_ends_with_a_server_that_is_killed(asking: ServerConfig, query_store: Path) -> None:
    options = ("--query-store", str(query_store), "--query-seconds", "600", "--query-workers", "1")
    assert asking.graph is not None
    with ServeProcess(asking.bundles[0], asking.graph, *options) as server:
        async with AsyncClient(server.address, timeout=600) as client:
            endless = await occupied(client)
            [worker] = workers(server.process.pid)
            server.process.kill()
            with pytest.raises(RemoteError):
                await endless
        await until(lambda: not Path(f"/proc/{worker}/exe").exists())


@pytest.mark.parametrize("broken", ["missing", "empty", "version", "database"])
def test_a_store_that_cannot_be_used_is_refused_at_start(asking: ServerConfig, tmp_path: Path, broken: str) -> None:
    store = tmp_path / "store"
    meta = {"format_version": 1, "version": "0" * 64, "source_hashes": {}, "quads": 0}
    if broken != "missing":
        store.mkdir()
    if broken == "version":
        (store / "store.json").write_text(json.dumps(meta | {"format_version": 99}))
    if broken == "database":
        (store / "store.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="kg store"), BackgroundServer(dataclasses.replace(asking, query_store=store)):
        pass


def test_worker_processes_on_one_port_answer_queries_too(asking: ServerConfig, query_store: Path) -> None:
    assert ServerConfig.from_json(asking.to_json()) == asking
    assert asking.graph is not None
    options = ("--workers", "2", "--query-store", str(query_store), "--query-rows", "3", "--query-workers", "1")
    with ServeProcess(asking.bundles[0], asking.graph, *options) as server:
        for _ in range(6):  # connections go to either
            with Client(server.address, timeout=120) as client:
                response = client.query("SELECT * { ?s ?p ?o }")
                assert (len(response.solutions.rows), response.truncated) == (3, True)
        server.terminate()
        assert server.wait() == 0


def test_a_store_without_a_graph_is_refused(asking: ServerConfig, tmp_path: Path) -> None:
    alone = dataclasses.replace(asking, bundles=(), graph=None, models=(("x", tmp_path),))
    with pytest.raises(ConfigurationError, match="--graph"), BackgroundServer(alone):
        pass


@pytest.mark.parametrize("where", ["store", "target"])
def test_the_command_line_asks(where: str, query_store: Path, queried: Client) -> None:
    place = ["--store", str(query_store)] if where == "store" else ["--target", queried.target]

    def ask(*arguments: str, stdin: str = "") -> str:
        result = CliRunner().invoke(kg, ["query", *place, *arguments], input=stdin, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    table = ask(PREFIX + "SELECT ?c ?n { ?c :motto ?n }")
    assert EX + "France" in table and "Liberté" in table
    assert ask("-", stdin="ASK {}") == "yes\n"
    assert ask(PREFIX + "ASK { :Peru :motto ?m }") == "no\n"
    made = ask(PREFIX + "CONSTRUCT WHERE { :France :motto ?m }")
    assert made == f'<{EX}France> <{EX}motto> "Liberté"@fr .\n'
    found = json.loads(ask("--json", PREFIX + "SELECT ?c ?n ?x { ?c :motto ?n }"))
    assert found["head"] == {"vars": ["c", "n", "x"]}
    assert found["results"]["bindings"] == [
        {"c": {"type": "uri", "value": EX + "France"}, "n": {"type": "literal", "value": "Liberté", "xml:lang": "fr"}}
    ]
    assert json.loads(ask("--json", "--max-rows", "2", "SELECT * { ?s ?p ?o }"))["truncated"]
    assert json.loads(ask("--json", "ASK {}"))["boolean"] is True
    number = json.loads(ask("--json", "CONSTRUCT { <a:a> <a:b> 1 } WHERE {}"))["triples"][0]["object"]
    assert number == {"type": "literal", "value": "1", "datatype": "http://www.w3.org/2001/XMLSchema#integer"}


def test_the_command_line_needs_one_place_to_ask() -> None:
    for places in ([], ["--store", "x", "--target", "y:1"]):
        result = CliRunner().invoke(kg, ["query", *places, "ASK {}"])
        assert result.exit_code == 2
        assert "--target" in result.output
