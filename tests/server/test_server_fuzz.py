"""The fuzzer and the soak test of scripts/ for a few seconds; CI and people run them for longer."""

import asyncio
import json
import socket
import sys
from pathlib import Path

import grpc
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from fuzz_cases import OIP, STREAMS, V1, Case, control_cases, seeds
from fuzz_server import METADATA, error_within, from_json, fuzz, report, to_json, wrongs
from http2_frames import whole
from small_server import SmallServer
from soak import SHARES, growth, soak

from groundwire.inference import service_pb2 as oip
from groundwire.server.app import BackgroundServer
from groundwire.v1 import knowledge_pb2, model_pb2, prediction_pb2


def test_a_server_that_is_fuzzed_for_a_while_goes_on_answering() -> None:
    with SmallServer() as server:
        found = asyncio.run(fuzz(server, 5, seed=1))
        said = report(found, 5, 1)
    assert said["ok"], found.failures[:5]
    assert said["probes"] >= 1
    assert {"OK", "UNIMPLEMENTED"} <= set(said["by_status"])  # of the valid requests at the beginning
    assert said["calls"] > len(control_cases())
    assert said["http2_connections"]


def test_the_frames_that_are_broken_are_those_of_a_call_that_would_be_answered(server: BackgroundServer) -> None:
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(whole(f"{OIP}ServerLive", b""))
        received = b""
        while b"\0\0\0\0\x02\x08\x01" not in received:  # not compressed, 2 bytes: field 1, true
            part = connection.recv(1 << 16)
            assert part, received
            received += part


def test_a_short_soak_has_no_failures() -> None:
    with SmallServer() as server:
        tally = asyncio.run(soak(server, 1_500, clients=8, seed=0))
    assert tally.failures == []
    assert tally.count >= 1_500
    assert set(tally.done) == set(SHARES)


def test_the_fuzzer_knows_every_method() -> None:
    services = [
        service
        for module in (prediction_pb2, knowledge_pb2, model_pb2, oip)
        for service in module.DESCRIPTOR.services_by_name.values()
    ]
    assert set(seeds()) == {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert set(STREAMS) == {
        f"/{service.full_name}/{method.name}"
        for service in services
        for method in service.methods
        if method.client_streaming
    }


@pytest.mark.parametrize(
    ("code", "seconds", "what"),
    [
        ("INTERNAL", 0.1, "INTERNAL"),
        ("UNKNOWN", 0.1, "UNKNOWN"),
        ("DEADLINE_EXCEEDED", 60, "no answer"),
        ("OK", 1, "got 0"),
    ],
)
def test_the_fuzzer_sees_what_must_not_be(code: str, seconds: float, what: str) -> None:
    sent = Case(STREAMS[0], (b"", b""))
    [said] = wrongs(sent, code, "", [], seconds)
    assert what in said
    assert list(wrongs(sent, "UNAVAILABLE", "", [], 0.1)) == []


def test_only_too_much_metadata_may_be_refused_by_http_and_only_natively() -> None:
    details = "Received http2 header with status: 431"
    large, small = (Case(STREAMS[0], (b"",), (("x", "y" * size),)) for size in (METADATA, 100))
    assert list(wrongs(large, "UNKNOWN", details, [], 0.1, native=True)) == []
    for sent, said, native in ((large, details, False), (small, details, True), (large, "another", True)):
        assert list(wrongs(sent, "UNKNOWN", said, [], 0.1, native=native))


def test_the_fuzzer_sees_what_must_not_be_in_a_stream() -> None:
    internal, invalid = (code.value[0] for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT))
    for code, count in ((internal, 1), (invalid, 0)):
        error = prediction_pb2.PredictError(code=code, message="x")
        answer = prediction_pb2.PredictStreamResponse(error=error).SerializeToString()
        assert len(list(error_within(f"{V1}PredictionService/PredictStream", answer))) == count
    for message, count in (("internal error; the log", 1), ("x is blank", 0)):
        answer = oip.ModelStreamInferResponse(error_message=message).SerializeToString()
        assert len(list(error_within(f"{OIP}ModelStreamInfer", answer))) == count


def test_a_request_that_was_kept_is_sent_again_as_it_was() -> None:
    for sent in (*control_cases(), Case("/x/y", (b"\xff", b""), (("x-bin", b"\x00"), ("x", "é")), 0.1)):
        assert from_json(json.loads(json.dumps(to_json(sent)))) == sent


def test_growth_is_that_of_the_second_half() -> None:
    flat = [(float(count), count, 100 if count > 400 else count) for count in range(0, 1001, 10)]
    assert growth(flat, 1000)[2] == 0
    leaking = [(float(count), count, 1000 + count) for count in range(0, 1001, 10)]
    assert growth(leaking, 1000)[2] == pytest.approx(0.30, abs=0.01)
