"""The clients of examples/clients in five languages, built as they say and run against a real server.

What they print is compared with what the package's own client was told. The compiled ones take long to build, so they
are left out unless GROUNDWIRE_TEST_CLIENTS=1; with it, a build that fails is a failure.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from authority import Authority

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "server"))

from serving import TRIG
from tiny_bundle import write_tiny_bundle

from groundwire.kg import compile_graph
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import Security, ServerConfig
from groundwire.v1 import prediction_pb2

ROOT = Path(__file__).resolve().parents[2]
ASKED = os.environ.get("GROUNDWIRE_TEST_CLIENTS") == "1"
JARS = ("grpc-netty", "netty-tcnative", "perfmark-api", "protobuf", "proto-google-common-protos")
TEXTS = ("Paris is the capital of France.", "Liberté, said France.", "Nothing here is in the graph at all.")
TOKEN = "correct-horse-battery-staple"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclasses.dataclass(frozen=True)
class Language:
    """How to build and run a client, in its folder; what must be there for that."""

    build: tuple[tuple[str, ...], ...]
    run: tuple[str, ...]
    needs: tuple[str, ...]
    compiled: bool = True


LANGUAGES = {
    "python": Language(
        (("make", f"PYTHON={sys.executable}"),), (sys.executable, "client.py"), ("make",), compiled=False
    ),
    "node": Language(
        (("npm", "ci", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=0"),),
        ("node", "--no-deprecation", "client.js"),  # it is told that an address is no name for TLS
        ("node", "npm"),
        compiled=False,
    ),
    "go": Language(
        (("make",),),
        ("build/client",),
        ("make", "go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc", "/usr/share/gocode/src/google.golang.org/grpc"),
    ),
    "java": Language(
        (("make",),),
        ("java", "-jar", "build/client.jar"),
        ("make", "javac", "protoc", "grpc_java_plugin", *(f"/usr/share/java/{jar}.jar" for jar in JARS)),
    ),
    "cpp": Language(
        (("cmake", "-B", "build"), ("cmake", "--build", "build")),
        ("build/client",),
        ("cmake", "c++", "protoc", "grpc_cpp_plugin", "/usr/include/grpcpp"),
    ),
}


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> ServerConfig:
    folder = tmp_path_factory.mktemp("served")
    (folder / "places.trig").write_text(TRIG, encoding="utf-8")
    compile_graph([folder / "places.trig"], folder / "graph")
    bundle = write_tiny_bundle(folder / "tiny")
    return ServerConfig((bundle.path,), folder / "graph", "127.0.0.1:0", provider="cpu", threads=1)


@pytest.fixture(scope="module")
def server(configuration: ServerConfig) -> Iterator[BackgroundServer]:
    with BackgroundServer(configuration) as running:
        yield running


@pytest.fixture(scope="module")
def expected(server: BackgroundServer) -> str:
    with Client(server.address) as client:
        return "".join(map(written, TEXTS, client.predict(TEXTS).predictions))


@pytest.fixture(scope="module", params=LANGUAGES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the client of one language with arguments, in a copy of the examples in which it was built."""
    language = LANGUAGES[request.param]
    if language.compiled and not ASKED:
        pytest.skip("compiled clients take long to build; set GROUNDWIRE_TEST_CLIENTS=1")
    missing = [need for need in language.needs if shutil.which(need) is None and not Path(need).exists()]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    top = tmp_path_factory.mktemp(request.param)
    examples = top / "examples" / "clients"
    shutil.copytree(ROOT / "examples" / "clients", examples, ignore=shutil.ignore_patterns("build", "node_modules"))
    (top / "proto").symlink_to(ROOT / "proto")
    folder = examples / request.param
    for command in language.build:
        built = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if request.param == "node" and built.returncode and not ASKED:
            pytest.skip(f"npm can't install the client's packages here: {built.stderr.strip()[-200:]}")
        assert built.returncode == 0, built.stdout + built.stderr

    def start(*arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        command = [*language.run, *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    return start


def written(text: str, prediction: prediction_pb2.Prediction) -> str:
    """A prediction as the clients print it."""
    doubt, said = prediction.uncertainty, ("no", "yes")
    decision = {prediction_pb2.DECISION_ACCEPT: "accept", prediction_pb2.DECISION_ABSTAIN: "abstain"}
    lines = [
        f"{prediction.label} {prediction.probability:.3f} {decision[prediction.decision]}",
        *(f"evidence    {triple.relevance:.3f} {triple.text}" for triple in prediction.evidence),
        f"model       agreement {doubt.model.agreement:.3f}, mutual information {doubt.model.mutual_information:.3f}",
        f"sensitivity margin {doubt.sensitivity.margin:.3f}, covered {said[doubt.sensitivity.covered]}",
        f"knowledge   coverage {doubt.knowledge.coverage:.3f}, links {doubt.knowledge.link_confidence:.3f}, "
        f"conflicts {doubt.knowledge.conflicts}, in the graph {said[not doubt.knowledge.not_in_graph]}",
        f"explanation triples {doubt.explanation.evidence_count}, "
        f"relevance up to {doubt.explanation.max_relevance:.3f}",
    ]
    return text + "\n" + "".join(f"  {line}\n" for line in lines)


def test_it_prints_what_the_server_says(run: Run, server: BackgroundServer, expected: str) -> None:
    done = run("--target", server.address, *TEXTS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == expected
    assert "Liberté" in expected


def test_it_prints_code_message_and_field_of_a_refusal(run: Run, server: BackgroundServer) -> None:
    done = run("--target", server.address, TEXTS[0], " ")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == [
        "INVALID_ARGUMENT: inputs[1].text: is blank",
        "  field inputs[1].text: is blank",
    ]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
def test_it_speaks_tls_gives_its_token_and_comes_back_when_told(
    run: Run, configuration: ServerConfig, expected: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path / "authority")
    certificate, key = authority.issue("server")
    (tmp_path / "tokens").write_text(TOKEN)
    security = Security(tls_cert=certificate, tls_key=key, token_file=tmp_path / "tokens", rate=0.5)
    with BackgroundServer(dataclasses.replace(configuration, security=security)) as server:
        secured = ("--target", server.address, "--ca", str(authority.ca))
        refused = run(*secured, "--token", "another-token-than-that", *TEXTS)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert refused.stderr.startswith("UNAUTHENTICATED: ")
        assert "retry" not in refused.stderr
        for _ in range(20):  # the second run is too soon, unless the machine is slow
            done = run(*secured, "--token", TOKEN, *TEXTS)
            assert (done.returncode, done.stdout) == (0, expected), done.stderr
            if done.stderr:
                break
        first, second = done.stderr.splitlines()
        assert first.startswith("RESOURCE_EXHAUSTED: this client sends more than 0.5 calls a second")
        assert second.startswith("  retry after ") and second.endswith(" s")
