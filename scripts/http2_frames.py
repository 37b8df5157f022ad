"""HTTP/2 frames of a gRPC call made by hand (RFC 9113, RFC 7541), whole, and broken as no gRPC client would."""

import random
import struct
from collections.abc import Iterator, Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 0x1, 0x4
MAX_ID = (1 << 31) - 1
_TIMEOUTS = ("1n", "0S", "99999999H", "-1S", "1", "S", "1e3S", "123456789S", "")
_PATHS = ("/", "", "//", "/groundwire.v1.PredictionService/", "no-slash", "/" + "x" * 5000, "/a/b/c", "/\xff/\xfe")
Header = tuple[str, str]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def header_block(headers: Sequence[Header]) -> bytes:
    """Headers as literals without indexing (RFC 7541, 6.2.2)."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def call(path: str, message: bytes, stream: int = 1, extra: Sequence[Header] = ()) -> list[bytes]:
    """The frames of one unary call, connection preface left out."""
    headers = [
        (":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost"),
        ("content-type", "application/grpc"), ("te", "trailers"), *extra,
    ]  # fmt: skip
    framed = b"\x00" + struct.pack(">I", len(message)) + message
    blocks = [framed[at : at + 16_384] for at in range(0, len(framed), 16_384)]
    return [
        frame(HEADERS, END_HEADERS, stream, header_block(headers)),
        *(frame(DATA, 0, stream, block) for block in blocks),
        frame(DATA, END_STREAM, stream),
    ]


def whole(path: str, message: bytes) -> bytes:
    """All that a client sends for one call."""
    return PREFACE + frame(SETTINGS, 0, 0) + b"".join(call(path, message))


def broken(path: str, message: bytes, rng: random.Random) -> bytes:
    """What a broken or hostile client sends: one call with something wrong in it."""
    start = [PREFACE, frame(SETTINGS, 0, 0)]
    frames = call(path, message)
    match rng.randrange(12):
        case 0:  # cut anywhere, most often within a frame
            data = b"".join(start + frames)
            return data[: rng.randrange(len(data))]
        case 1:
            return flipped(b"".join(start + frames), rng)
        case 2:
            frames = call(path, message, extra=[_odd_header(rng) for _ in range(rng.choice((1, 3, 40)))])
        case 3:  # the length before the message is wrong, or it says that it is compressed
            prefix = rng.choice((0, 1, 255)), rng.choice((0, 1, len(message) + 1, 1 << 20, (1 << 32) - 1))
            frames[1:-1] = [frame(DATA, 0, 1, struct.pack(">BI", *prefix) + message[:16_000])]
        case 4:  # a frame of any kind somewhere in between
            frames.insert(rng.randrange(len(frames) + 1), odd_frame(rng))
        case 5:
            rng.shuffle(frames)
        case 6:  # rapid reset
            frames = list(_resets(path, message, rng.choice((3, 50, 200))))
        case 7:
            return rng.randbytes(rng.randrange(1, 400))
        case 8:
            start = [PREFACE[: rng.randrange(len(PREFACE))], rng.randbytes(rng.randrange(60))]
        case 9:
            settings = b"".join(
                struct.pack(">HI", rng.randrange(10), rng.choice((0, 1, MAX_ID, 2**32 - 1))) for _ in range(6)
            )
            start.append(frame(SETTINGS, 0, 0, settings))
        case 10:
            frames = [frame(PING, 0, 0, bytes(8)) for _ in range(200)] + frames
        case 11:  # never ends its headers
            frames = [frame(HEADERS, 0, 1, b""), *(frame(CONTINUATION, 0, 1, _block(rng)) for _ in range(100))]
    return b"".join(start + frames)


def odd_frame(rng: random.Random) -> bytes:
    """A frame of any kind with anything in it, perhaps with a length that is not its own."""
    payload = rng.randbytes(rng.choice((0, 1, 4, 5, 8, 9, 50)))
    if rng.random() < 0.3:
        payload = struct.pack(">I", rng.choice((0, 1, MAX_ID, 2**32 - 1)))
    made = frame(rng.choice((*range(10), 77, 255)), rng.randrange(256), rng.choice((0, 1, 2, 3, MAX_ID)), payload)
    return made if rng.random() < 0.7 else rng.randbytes(3) + made[3:]


def flipped(data: bytes, rng: random.Random) -> bytes:
    """A few bits of `data` flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _resets(path: str, message: bytes, count: int) -> Iterator[bytes]:
    for number in range(count):
        stream = 2 * number + 1
        yield call(path, message, stream)[0]
        yield frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def _odd_header(rng: random.Random) -> Header:
    return rng.choice(
        (
            ("grpc-timeout", rng.choice(_TIMEOUTS)),
            (":path", rng.choice(_PATHS)),
            (":method", "GET"),
            ("content-type", rng.choice(("text/html", "application/grpc+json", ""))),
            ("grpc-encoding", rng.choice(("gzip", "deflate", "br", "identity", "\x01"))),
            ("content-length", rng.choice(("-1", "0", "99999999999999999999", "abc"))),
            ("Upper-Case", "x"),
            ("x-bin", rng.choice(("!!!", "AAAA", "A"))),
            ("x" * rng.choice((1, 300, 9000)), "y" * rng.choice((0, 1, 9000))),
            (":unknown", "1"),
            ("connection", "close"),
            ("x", "a\r\nb: c"),
        )
    )


def _block(rng: random.Random) -> bytes:
    return header_block([(f"x{rng.randrange(1000)}", "y" * rng.randrange(100))])


def _string(text: str) -> bytes:
    data = text.encode("latin-1", "replace")
    return _integer(len(data)) + data


def _integer(value: int) -> bytes:
    """RFC 7541, 5.1, with a prefix of seven bits."""
    if value < 127:
        return bytes([value])
    out, value = bytearray([127]), value - 127
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    out.append(value)
    return bytes(out)
