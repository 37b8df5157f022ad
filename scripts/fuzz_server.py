"""Send a running server what no good client sends: it must refuse it with a proper status and go on answering.

    python scripts/fuzz_server.py [--seconds 600] [--seed 0] [--keep FOLDER] [--out FILE]
    python scripts/fuzz_server.py --replay FOLDER/failure-0.json

Valid requests of every method of groundwire.v1 and the Open Inference Protocol are changed in their fields, their
bytes and their metadata; HTTP/2 frames are cut, flipped, put out of order and flooded. Meanwhile a well-behaved client
asks every second, and its answers are compared with those of the model asked directly.

It prints JSON with the calls by status, and its exit code is 1 when the server died, logged a bug, did not answer
within a minute, answered INTERNAL or UNKNOWN (it did not see that the request was wrong), left a message of a stream
unanswered, gave the good client a wrong answer or none, or grew without bound.
Requests that failed are kept in `--keep`. One seed makes one sequence for each client.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from fuzz_cases import Case, case, control_cases, seeds
from http2_frames import broken, whole
from small_server import LOOKUP, ROWS, TABLE, TEXTS, SmallServer, finish, tensor_request, text_request

from groundwire.inference import service_pb2 as oip
from groundwire.inference import service_pb2_grpc
from groundwire.server.client import Client
from groundwire.server.config import CARRIERS
from groundwire.v1 import prediction_pb2

CALLERS = 6
PATIENCE = 60.0  # seconds without an answer that count as a hang
WRONG = {grpc.StatusCode.INTERNAL.name, grpc.StatusCode.UNKNOWN.name}
# What a server may keep: allocators and gRPC hold on to the size of the largest requests.
GROWTH, SLACK = 1.1, 32 << 20
CEILING = 2 << 30
SETTLED = 60  # probes, one a second: before, a server still grows to what its requests need
MIB = 1 << 20
_PREDICT_STREAM = "PredictStream"
# What grpc.aio's client says when a call ended while it was sending; no server can send it.
_OWN_ERROR = "Internal error from Core"
# More metadata than this, as HTTP/2 counts it, pygrpc-native refuses in HTTP's way, which clients read as UNKNOWN, or
# as INTERNAL when they were still sending.
METADATA = 16 << 10
_REFUSED_BY_HTTP = ("header with status: 431", "RST_STREAM with error code 1 ")
KEPT = 5  # requests of each kind of failure
_OPTIONS = (("grpc.max_receive_message_length", 64 * MIB), ("grpc.use_local_subchannel_pool", 1))


@dataclass
class Findings:
    """What happened."""

    native: bool = False  # whether pygrpc-native carries the calls
    statuses: Counter[str] = field(default_factory=Counter)
    methods: Counter[str] = field(default_factory=Counter)
    http2: Counter[str] = field(default_factory=Counter)
    probes: int = 0
    slowest_probe: float = 0.0
    resident: list[int] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def fail(self, what: str, sent: Case | None = None, **more: Any) -> None:
        """Note what must not be, with the request if there is one."""
        self.failures.append({"what": what, **({"case": to_json(sent)} if sent else {}), **more})


def to_json(sent: Case) -> dict[str, Any]:
    """A case so that it can be kept and sent again."""
    metadata = [[key, base64.b64encode(v if isinstance(v, bytes) else v.encode()).decode()] for key, v in sent.metadata]
    messages = [base64.b64encode(message).decode() for message in sent.messages]
    return {"path": sent.path, "messages": messages, "metadata": metadata, "timeout": sent.timeout}


def from_json(kept: dict[str, Any]) -> Case:
    """The case that `to_json` wrote."""
    decoded = [(key, base64.b64decode(value)) for key, value in kept["metadata"]]
    metadata = tuple((key, value if key.endswith("-bin") else value.decode()) for key, value in decoded)
    return Case(kept["path"], tuple(map(base64.b64decode, kept["messages"])), metadata, kept["timeout"])


async def send(channel: grpc.aio.Channel, sent: Case, found: Findings, rng: random.Random | None = None) -> str:
    """Make a call and judge how it ended. With `rng` a client may leave before the answer. Returns the status."""
    options: dict[str, Any] = {"metadata": sent.metadata, "timeout": sent.timeout or PATIENCE}
    if rng is not None and rng.random() < 0.1:
        options["compression"] = rng.choice((grpc.Compression.Gzip, grpc.Compression.Deflate))
    answers: list[bytes] = []
    started = time.monotonic()
    call: Any
    try:
        if sent.streaming:
            call = channel.stream_stream(sent.path)(iter(sent.messages), **options)
        else:
            call = channel.unary_unary(sent.path)(sent.messages[0], **options)
        if rng is not None and rng.random() < 0.05:
            await asyncio.sleep(rng.choice((0, 0.001, 0.01)))
            call.cancel()
        if sent.streaming:
            async for answer in call:
                answers.append(answer)
        else:
            answers.append(await call)
        code, details = "OK", ""
    except grpc.aio.AioRpcError as error:
        code, details = error.code().name, error.details() or ""
    except asyncio.CancelledError:
        if not call.cancelled():  # it was this task and not the call
            raise
        code, details = "CANCELLED", ""
    if details == _OWN_ERROR and sent.streaming:
        code = "ENDED WHILE SENDING"
    found.failures += [
        {"what": what, "case": to_json(sent)}
        for what in wrongs(sent, code, details, answers, time.monotonic() - started, native=found.native)
    ]
    return code


def wrongs(
    sent: Case, code: str, details: str, answers: list[bytes], seconds: float, *, native: bool = False
) -> Iterator[str]:
    """What must not be in the way that a call ended, after so many seconds."""
    refused = native and _size(sent) > METADATA and any(one in details for one in _REFUSED_BY_HTTP)
    if code in WRONG and not refused:
        yield f"answered {code}: {details}"
    if code == "DEADLINE_EXCEEDED" and seconds >= PATIENCE:
        yield f"no answer for {PATIENCE:g} s"
    if sent.streaming:
        if code == "OK" and len(answers) != len(sent.messages):
            yield f"{len(sent.messages)} messages got {len(answers)} answers"
        for content in answers:
            yield from error_within(sent.path, content)


def _size(sent: Case) -> int:
    """Bytes of the metadata as HTTP/2 counts them; of binary ones, as base64."""
    return sum(len(key) + 32 + len(value) * (4 if key.endswith("-bin") else 3) // 3 for key, value in sent.metadata)


def error_within(path: str, content: bytes) -> Iterator[str]:
    """What must not be in an answer of a stream."""
    if path.endswith(_PREDICT_STREAM):
        error = prediction_pb2.PredictStreamResponse.FromString(content).error
        name = next(code.name for code in grpc.StatusCode if code.value[0] == error.code)
        if name in WRONG:
            yield f"a message of a stream was answered {name}: {error.message}"
    else:
        message = oip.ModelStreamInferResponse.FromString(content).error_message
        if "internal error" in message or "failed" in message:
            yield f"a message of a stream was answered {message}"


async def call_until(server: SmallServer, found: Findings, seed: int, end: float) -> None:
    """Send one case after the other, on a new connection now and then."""
    rng = random.Random(f"calls {seed}")
    while time.monotonic() < end and server.alive:
        async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
            for _ in range(rng.choice((1, 20, 500))):
                if time.monotonic() >= end or not server.alive:
                    return
                sent = case(rng)
                found.statuses[await send(channel, sent, found, rng)] += 1
                found.methods[sent.path.rpartition("/")[2]] += 1


async def break_frames_until(server: SmallServer, found: Findings, seed: int, end: float) -> None:
    """Open connections and send broken frames on them."""
    rng = random.Random(f"frames {seed}")
    messages = [(path, message.SerializeToString()) for path, many in seeds().items() for message in many]
    host, _, port = server.address.rpartition(":")
    while time.monotonic() < end and server.alive:
        path, message = rng.choice(messages)
        data = whole(path, message) if rng.random() < 0.05 else broken(path, message, rng)
        found.http2[await _connect(host, int(port), data, rng)] += 1


async def _connect(host: str, port: int, data: bytes, rng: random.Random) -> str:
    """Send `data` on a connection of its own and leave. What came back within a moment."""
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return "refused"
    received = b""
    try:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]) if rng.random() < 0.3 else (data,):
            writer.write(part)
            await asyncio.sleep(0)
        if rng.random() < 0.3:
            writer.write_eof()
        async with asyncio.timeout(rng.choice((0, 0.01, 0.1))):
            while part := await reader.read(1 << 16):
                received += part
        outcome = "closed"
    except TimeoutError:
        outcome = "left open"
    except OSError:
        outcome = "reset"
    writer.transport.abort()
    return outcome + (", answered" if received else "")


def probe_until(server: SmallServer, found: Findings, end: float, stop: threading.Event) -> None:
    """Ask as a good client does, every second, and check the answers. Samples the memory too."""
    rng = random.Random("probe")
    with Client(server.address, timeout=PATIENCE) as client, grpc.insecure_channel(server.address) as channel:
        stub: Any = service_pb2_grpc.GRPCInferenceServiceStub(channel)  # type: ignore[arg-type]
        while True:
            text, index = rng.choice(TEXTS), np.array([[rng.randrange(ROWS)] for _ in range(3)], np.int64)
            started = time.monotonic()
            try:
                [prediction] = client.predict([text]).predictions
                right = server.is_prediction(text, prediction.scores)
                right &= server.is_text_answer([text], stub.ModelInfer(text_request([text]), timeout=PATIENCE))
                looked = stub.ModelInfer(tensor_request(LOOKUP, index), timeout=PATIENCE)
                right &= looked.raw_output_contents[0] == TABLE[index].tobytes()
                if not right:
                    found.fail(f"a wrong answer to a good client: {text}, {index.tolist()}")
            except Exception as error:  # whatever it was: a good client was not answered
                found.fail(f"no answer to a good client: {error}")
            found.probes += 1
            found.slowest_probe = max(found.slowest_probe, time.monotonic() - started)
            found.resident.append(server.resident())
            if time.monotonic() >= end or not server.alive or stop.wait(1.0):
                return


async def fuzz(server: SmallServer, seconds: float, seed: int) -> Findings:
    """Fuzz a server for that long."""
    found = Findings(native=server.native)
    async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
        for control in control_cases():
            status = await send(channel, control, found)
            found.statuses[status] += 1
            if status not in {"OK", "UNIMPLEMENTED"}:
                found.fail(f"a valid request was answered {status}", control)
    end, stop = time.monotonic() + seconds, threading.Event()
    prober = threading.Thread(target=probe_until, args=(server, found, end, stop))
    prober.start()
    try:
        callers = (call_until(server, found, seed * CALLERS + number, end) for number in range(CALLERS))
        await asyncio.gather(*callers, break_frames_until(server, found, seed, end))
    finally:
        stop.set()
        await asyncio.to_thread(prober.join)
    judge(server, found)
    return found


def judge(server: SmallServer, found: Findings) -> None:
    """What can only be said at the end."""
    if not server.alive:
        found.fail(f"the server died with exit code {server.process.process.returncode}")
    found.failures += [{"what": "the server logged a bug", "log": line} for line in server.bugs()]
    middle, last = found.resident[len(found.resident) // 2], found.resident[-1]
    grew = len(found.resident) >= SETTLED and last > middle * GROWTH + SLACK
    if grew or max(found.resident) > CEILING:
        found.fail(
            f"memory grew from {middle // MIB} MiB at half time to {last // MIB}, at most {max(found.resident) // MIB}"
        )


def report(found: Findings, seconds: float, seed: int) -> dict[str, Any]:
    """The findings as JSON."""
    resident = found.resident
    return {
        "ok": not found.failures,
        "seconds": round(seconds, 1),
        "seed": seed,
        "calls": sum(found.statuses.values()),
        "by_status": dict(found.statuses.most_common()),
        "by_method": dict(found.methods.most_common()),
        "http2_connections": dict(found.http2.most_common()),
        "probes": found.probes,
        "slowest_probe_seconds": round(found.slowest_probe, 3),
        "resident_mib": {
            "start": resident[0] // MIB, "half": resident[len(resident) // 2] // MIB, "end": resident[-1] // MIB,
            "most": max(resident) // MIB,
        },
        "failures": len(found.failures),
        "kinds_of_failure": dict(Counter(str(failure["what"])[:160] for failure in found.failures).most_common(20)),
    }  # fmt: skip


async def replay(server: SmallServer, sent: Case) -> Findings:
    """Send one kept case again."""
    found = Findings(native=server.native, resident=[0])
    async with grpc.aio.insecure_channel(server.address, _OPTIONS) as channel:
        found.statuses[await send(channel, sent, found)] += 1
    judge(server, found)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--transport", default="grpcio", choices=CARRIERS)
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"), help="folder for requests that failed")
    parser.add_argument("--out", type=Path, help="file for the JSON, beside stdout")
    parser.add_argument("--replay", type=Path, help="send this kept request again, and no other")
    given = parser.parse_args(arguments)
    started = time.monotonic()
    with SmallServer("--transport", given.transport) as server:
        if given.replay:
            found = asyncio.run(replay(server, from_json(json.loads(given.replay.read_text())["case"])))
        else:
            found = asyncio.run(fuzz(server, given.seconds, given.seed))
    result = report(found, time.monotonic() - started, given.seed)
    if found.failures and not given.replay:
        given.keep.mkdir(parents=True, exist_ok=True)
        kinds: Counter[str] = Counter()
        for number, failure in enumerate(found.failures):
            kinds[failure["what"][:60]] += 1
            if kinds[failure["what"][:60]] <= KEPT:
                (given.keep / f"failure-{number}.json").write_text(json.dumps(failure, indent=1), encoding="utf-8")
    return finish(result, given.out)


if __name__ == "__main__":
    sys.exit(main())
