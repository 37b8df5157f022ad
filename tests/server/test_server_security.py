"""TLS with certificates made here, tokens and rate limits, against a real server."""

import asyncio
import dataclasses
import json
import logging
import shutil
import subprocess
import time
from pathlib import Path

import grpc
import pytest
from authority import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from processes import ServeProcess
from serving import TEXTS, predict_singly

from groundwire.bundle import Bundle
from groundwire.server.access import RECHECK_SECONDS, RateLimit, Tokens
from groundwire.server.app import BackgroundServer
from groundwire.server.client import AsyncClient, Client, RemoteError
from groundwire.server.config import Security, ServerConfig, is_loopback
from groundwire.server.errors import ConfigurationError, UnauthenticatedError
from groundwire.v1 import prediction_pb2

TOKEN = "correct-horse-battery-staple"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


def secured(config: ServerConfig, **security) -> ServerConfig:
    return dataclasses.replace(config, security=Security(**security))


def trusting(authority: Authority, pair: tuple[Path, Path] | None = None) -> grpc.ChannelCredentials:
    certificate, key = (file.read_bytes() for file in pair) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.ca.read_bytes(), key, certificate)


def served_certificate(address: str) -> str:
    done = subprocess.run(
        ["openssl", "s_client", "-connect", address, "-alpn", "h2"],
        input=b"", capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.partition(b"-----BEGIN CERTIFICATE-----")[2].partition(b"-----END")[0].decode().strip()


def refusal(address: str, **options) -> RemoteError:
    with Client(address, timeout=10, **options) as client, pytest.raises(RemoteError) as refused:
        client.get_graph()
    return refused.value


@needs_openssl
def test_tls_and_a_certificate_renewed_while_serving(config: ServerConfig, authority: Authority, tmp_path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def install(pair: tuple[Path, Path]) -> str:
        for source, target in zip(pair, (certificate, key), strict=True):
            new = target.with_suffix(".new")
            shutil.copy(source, new)
            new.rename(target)
        return certificate.read_text().partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END")[0].strip()

    first = install(authority.issue("first"))
    with (
        BackgroundServer(secured(config, tls_cert=certificate, tls_key=key)) as server,
        Client(server.address, credentials=trusting(authority)) as early,
    ):
        before = predict_singly(early)
        assert served_certificate(server.address) == first
        assert refusal(server.address).code == "UNAVAILABLE"  # in the clear
        second = install(authority.issue("second"))
        assert served_certificate(server.address) == second
        key.write_text("no key")  # a renewal that goes wrong: the last good certificate stays
        assert served_certificate(server.address) == second
        with Client(server.address, credentials=trusting(authority)) as late:
            assert predict_singly(late) == before
        assert predict_singly(early) == before  # on the old connection


@needs_openssl
def test_a_certificate_that_can_not_be_used_is_said_once_and_not_at_each_connection(
    config: ServerConfig, authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    issued, its_key = authority.issue("broken-later")
    shutil.copy(issued, certificate)
    shutil.copy(its_key, key)

    def said() -> list[str]:
        return [line.fields["error"] for line in caplog.records if line.message.startswith("certificate can't be used")]

    def connect(times: int) -> None:
        for _ in range(times):
            own = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.secure_channel(server.address, trusting(authority), own) as channel:
                assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=60).status

    caplog.set_level(logging.INFO, "groundwire")
    with BackgroundServer(secured(config, tls_cert=certificate, tls_key=key)) as server:
        certificate.write_text("no certificate")
        connect(4)
        assert len(said()) == 1
        certificate.unlink()
        connect(4)
        assert said()[1:] == ["No such file or directory"]
        certificate.write_text("no certificate, again")
        connect(2)
        assert len(said()) == 3
        shutil.copy(issued, certificate)
        connect(2)
        assert [line.message for line in caplog.records].count("certificate read again") == 1


@needs_openssl
def test_mutual_tls_lets_only_certified_clients_in(config: ServerConfig, authority: Authority, tmp_path) -> None:
    certificate, key = authority.issue("server")
    strangers = Authority(tmp_path / "strangers")
    guarded = secured(config, tls_cert=certificate, tls_key=key, tls_client_ca=authority.ca, rate=5)
    with BackgroundServer(guarded) as server:
        with Client(server.address, credentials=trusting(authority, authority.issue("client"))) as client:
            client.predict(TEXTS)
        assert refusal(server.address, credentials=trusting(authority)).code == "UNAVAILABLE"
        theirs = trusting(authority, strangers.issue("client"))
        assert refusal(server.address, credentials=theirs).code == "UNAVAILABLE"


@needs_openssl
def test_tls_that_cannot_work_is_refused_at_the_start(config: ServerConfig, authority: Authority, tmp_path) -> None:
    certificate, key = authority.issue("server")
    other = authority.issue("other")[1]
    for pair in ((certificate, other), (certificate, tmp_path / "none"), (key, key)):
        with (
            pytest.raises(ConfigurationError, match="TLS"),
            BackgroundServer(secured(config, tls_cert=pair[0], tls_key=pair[1])),
        ):
            pass
    with pytest.raises(ConfigurationError, match="both"):
        Security(tls_cert=certificate)
    with pytest.raises(ConfigurationError, match="--tls-cert"):
        Security(tls_client_ca=certificate)


def test_only_calls_with_the_token_are_answered(config: ServerConfig, tmp_path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"an-older-token-of-ours\n{TOKEN}\n")
    with BackgroundServer(secured(config, token_file=file)) as server:
        for token in (TOKEN, "an-older-token-of-ours"):
            with Client(server.address, token=token) as client:
                assert client.predict(TEXTS).predictions
                request = prediction_pb2.PredictStreamRequest(id="1", input=prediction_pb2.PredictInput(text=TEXTS[0]))
                assert [answer.id for answer in client.predict_stream([request])] == ["1"]
        for token in ("", "wrong", TOKEN[:-1], f"{TOKEN} {TOKEN}"):
            error = refusal(server.address, token=token)
            assert error.code == "UNAUTHENTICATED"
            assert TOKEN not in str(error)
        with Client(server.address) as client, pytest.raises(RemoteError) as refused:
            list(client.predict_stream([request]))
        assert refused.value.code == "UNAUTHENTICATED"
        with grpc.insecure_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == 1


def test_tokens_change_with_their_file(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    tokens = Tokens(file)
    with caplog.at_level(logging.INFO, logger="groundwire.server"):

        def after(content: str | None, token: str) -> bool:
            if content is None:
                file.unlink()
            else:
                file.write_text(content)
            tokens._checked = time.monotonic() - 2 * RECHECK_SECONDS  # as if that time had passed
            try:
                tokens.check(f"Bearer {token}")
            except UnauthenticatedError:
                return False
            return True

        assert after(TOKEN, TOKEN)
        assert not after("a-new-token-for-everybody\n", TOKEN)
        assert after(None, "a-new-token-for-everybody")  # between the removal and the writing of a file
        assert not after("", "")
        assert not after("short\n", "short")
        assert after(TOKEN, TOKEN)
    assert TOKEN not in caplog.text + repr([record.__dict__ for record in caplog.records])
    for content in ("", "short"):
        file.write_text(content)
        with pytest.raises(ConfigurationError, match="openssl rand"):
            Tokens(file)
    with pytest.raises(ConfigurationError, match="--token-file"):
        Tokens(tmp_path / "none")


async def test_a_client_that_is_too_fast_is_told_when_to_come_back(config: ServerConfig) -> None:
    with BackgroundServer(secured(config, rate=4)) as server:
        async with AsyncClient(server.address) as client:
            answers = await asyncio.gather(*(client.get_graph() for _ in range(30)), return_exceptions=True)
            refused = [answer for answer in answers if isinstance(answer, RemoteError)]
            assert {error.code for error in refused} == {"RESOURCE_EXHAUSTED"}
            assert 1 <= 30 - len(refused) < 30
            assert all(0 < error.retry_after <= 0.25 for error in refused if error.retry_after is not None)
            await asyncio.sleep(max(error.retry_after or 0 for error in refused) + 0.3)
            assert await client.get_graph()


async def test_a_stream_is_slowed_and_not_refused(config: ServerConfig) -> None:
    with BackgroundServer(secured(config, rate=20)) as server:
        async with AsyncClient(server.address) as client:

            async def ask():
                for number in range(30):
                    yield prediction_pb2.PredictStreamRequest(
                        id=str(number), input=prediction_pb2.PredictInput(text=TEXTS[0])
                    )

            started = time.monotonic()
            answers = [answer async for answer in client.predict_stream(ask())]
        assert len(answers) == 30
        assert not any(answer.HasField("error") for answer in answers)
        assert time.monotonic() - started >= (30 + 1 - 20) / 20 - 0.05  # all but the burst wait for their turn


def test_a_bucket_fills_at_its_rate_and_the_number_of_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("groundwire.server.access.time.monotonic", lambda: now)
    monkeypatch.setattr("groundwire.server.access.MAX_CLIENTS", 3)
    limit = RateLimit(2.0)
    assert [limit.take("a") for _ in range(3)] == [0, 0, 0.5]
    now += 0.5
    assert [limit.take("a"), limit.take("a"), limit.take("b")] == [0, 0.5, 0]
    for number in range(10):
        limit.take(f"c{number}")
    assert len(limit._buckets) == 3


def test_an_open_address_without_tls_is_warned_of_and_secrets_stay_out_of_the_log(
    tiny: Bundle, graph, tmp_path
) -> None:
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    options = ("--listen", "0.0.0.0:0", "--token-file", str(file), "--rate", "100")
    with ServeProcess(tiny.path, graph, *options) as server:
        [warning] = [event for event in server._log if "not encrypted" in event["event"]]
        assert warning["level"] == "warning"
        address = server.address.replace("0.0.0.0", "127.0.0.1")
        assert refusal(address).code == "UNAUTHENTICATED"
        with Client(address, token=TOKEN) as client:
            assert client.predict(TEXTS).predictions
        server.terminate()
        assert server.wait() == 0
        assert TOKEN not in json.dumps(server._log)


def test_what_counts_as_loopback() -> None:
    assert all(is_loopback(host) for host in ("127.0.0.1", "127.1.2.3", "[::1]", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "[::]", "10.0.0.1", "example.org"))


def test_settings_of_security_reach_a_worker(config: ServerConfig) -> None:
    whole = secured(config, tls_cert=Path("a"), tls_key=Path("b"), token_file=Path("c"), rate=2.5)
    assert ServerConfig.from_json(whole.to_json()) == whole
