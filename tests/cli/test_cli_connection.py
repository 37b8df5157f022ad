"""The commands that ask a server, against one that wants TLS, a client's certificate and a token."""

import json
import shutil
from pathlib import Path

import pytest
from authority import Authority
from commands import groundwire

from groundwire.bundle import Bundle
from groundwire.server.app import BackgroundServer
from groundwire.server.config import Security, ServerConfig

TOKEN = "correct-horse-battery-staple"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")


def test_commands_reach_a_guarded_server_and_say_what_is_missing(built: Bundle, project: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server")
    mine, my_key = authority.issue("client")
    tokens, empty, data = tmp_path / "tokens", tmp_path / "empty", tmp_path / "some.jsonl"
    tokens.write_text(f"{TOKEN}\n")
    empty.write_text("\n")
    rows = (project / "test.jsonl").read_text().splitlines(keepends=True)[:3]
    data.write_text("".join(rows))
    text = json.loads(rows[0])["text"]
    security = Security(tls_cert=certificate, tls_key=key, tls_client_ca=authority.ca, token_file=tokens)
    config = ServerConfig((built.path,), project / "towns.ttl", "127.0.0.1:0", security=security)
    with BackgroundServer(config) as server:
        certified = ("--tls-ca", authority.ca, "--client-cert", mine, "--client-key", my_key)
        whole = (*certified, "--token-file", tokens)
        at = ("--target", server.address)
        answers = [
            groundwire("predict", *at, *whole, "--json", text),
            groundwire("evaluate", *at, *whole, "--data", data, "--json"),
            groundwire("attack", *at, *whole, "--data", data, "--attack", "characters", "--queries", "4", "--json"),
        ]
        for answer in answers:
            assert answer.returncode == 0, answer.stderr
            assert json.loads(answer.stdout)
        query = groundwire("kg", "query", *at, *whole, "ASK { ?s ?p ?o }")
        assert "--query-store" in query.stderr, "it got through, to a server that answers no queries"
        for options, said in (
            ((), "UNAVAILABLE"),
            (certified, "UNAUTHENTICATED"),
            (("--tls-ca", authority.ca, "--token-file", tokens), "UNAVAILABLE"),
            ((*certified, "--token-file", empty), "holds no token"),
            (("--tls-ca", tmp_path / "nowhere.pem"), "can't be read"),
        ):
            refused = groundwire("predict", *at, *options, text)
            assert refused.returncode == 1
            assert said in refused.stderr
            assert "Traceback" not in refused.stderr
            assert TOKEN not in refused.stderr
        assert groundwire("predict", *at, "--client-cert", mine, text).returncode == 2
