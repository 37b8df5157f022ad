"""Feed broken and hostile RDF to the reader: it must end in `SourceError` or in quads, never in a hang or crash.

    python scripts/fuzz_rdf.py [--seed 0] [--files 2000] [--seconds 20]

Valid files of every syntax are cut, flipped, spliced, repeated and nested, and each is read in a child process, since a
crash of the native parser would end this one. The child reads file after file; when it dies or takes more than
`--seconds` for one, that file is kept in the current folder and named, and the exit code is 1. One seed makes one
sequence.
"""

import argparse
import faulthandler
import gzip
import multiprocessing as mp
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pyoxigraph as ox

from groundwire.kg import SourceError
from groundwire.kg.read import FORMATS, read_quads

SAMPLE = """
@prefix : <http://e.org/> . @prefix rdf: <http://www.w3.org/1999/02/22-rdf-syntax-ns#> .
:s :p "a\\tb"@en-GB , 1.5 , true , "Grüße 東京" , "<&>" , "1"^^:type , _:b ; a :C .
_:b :list ( 1 [ :q 2 ] ) ; :long "%s" .
""" % ("word " * 50)
MEMORY = 2 << 30  # bytes of address space beyond what the child has at its start
HOSTILE = {
    "xml": (b"<rdf:Description><e:p>", b"<!--", b"<![CDATA[", b"&e;", b"<!ENTITY e '&e;&e;'>", b"<?x", b"xml:lang='"),
    "json": (b"[", b'{"@graph":', b'{"@list":[', b'"\\ud800"', b'{"@context":{"a":"b:"},', b'{"@id":', b"1e999999"),
    "turtle": (b"[ :p ", b"( ", b"<< ", b'"""', b"@prefix : <", b"\\U00110000", b"{ ", b"^^", b"_:", b";;;;"),
}


def kind(suffix: str) -> str:
    """Which of the hostile pieces fit a syntax."""
    return {".rdf": "xml", ".xml": "xml", ".owl": "xml", ".json": "json", ".jsonld": "json"}.get(suffix, "turtle")


def valid_files() -> dict[str, bytes]:
    """A valid file of each syntax, by its suffix."""
    quads = list(ox.parse(SAMPLE, format=ox.RdfFormat.TURTLE))
    files = {}
    for suffix, syntax in FORMATS.items():
        files[suffix] = ox.serialize((quad.triple for quad in quads), format=syntax)
    return files


def damage(data: bytes, suffix: str, rng: random.Random, others: list[bytes]) -> bytes:
    """A few changes to a file."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(8):
            case 0:
                del changed[place:]
            case 1 if changed:
                changed[place % len(changed)] ^= 1 << rng.randrange(8)
            case 2 if changed:
                changed[place % len(changed)] = rng.randrange(256)
            case 3:
                del changed[place : place + rng.randrange(1, 60)]
            case 4:
                piece = changed[place : place + rng.randrange(1, 60)]
                changed[place:place] = piece * rng.choice((1, 2, 50, 2_000))
            case 5:
                other = rng.choice(others)
                start = rng.randrange(len(other))
                changed[place:place] = other[start : start + rng.randrange(200)]
            case 6:
                changed[place:place] = rng.choice(HOSTILE[kind(suffix)]) * rng.choice((1, 2, 1_000, 100_000))
            case 7:
                changed[place:place] = bytes(rng.choice((b"a", b" ", b'"', b"\0", b"\xff", b"\n"))) * rng.choice(
                    (1, 100, 1_000_000)
                )
        if len(changed) > 8 << 20:
            del changed[8 << 20 :]
    return bytes(changed)


def cases(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` files: name and bytes."""
    rng = random.Random(seed)
    files = valid_files()
    others = list(files.values())
    for number in range(count):
        suffix = rng.choice(sorted(files))
        data = damage(files[suffix], suffix, rng, others)
        name = f"fuzz-{seed}-{number}{suffix}"
        if rng.random() < 0.1:
            packed = bytearray(gzip.compress(data, mtime=0))
            if rng.random() < 0.5:
                packed[rng.randrange(len(packed))] ^= 1 << rng.randrange(8)
            yield name + ".gz", bytes(packed)
        else:
            yield name, data


def read_files(connection: Connection) -> None:
    """The child: read each path that is sent, answer with how it ended."""
    faulthandler.enable()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    while path := connection.recv():
        try:
            for _ in read_quads(path):
                pass
        except SourceError:
            connection.send("refused")
        except Exception as error:
            connection.send(f"{type(error).__name__}: {str(error)[:200]}")
        else:
            connection.send("read")


class Reader:
    """A child that reads files; started again after it died or was stopped."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._start()

    def _start(self) -> None:
        self._connection, theirs = mp.Pipe()
        self._child = mp.get_context("spawn").Process(target=read_files, args=(theirs,), daemon=True)
        self._child.start()
        theirs.close()

    def read(self, path: Path) -> str:
        """How reading the file ended: "read", "refused", or what must not be."""
        self._connection.send(str(path))
        try:
            if self._connection.poll(self._seconds):
                return str(self._connection.recv())
            ended = f"hung for {self._seconds:g} s"
        except EOFError:
            self._child.join()
            ended = f"crashed with exit code {self._child.exitcode}"
        self._child.kill()
        self._child.join()
        self._start()
        return ended

    def close(self) -> None:
        """End the child."""
        self._connection.send("")
        self._child.join()


def fuzz(seed: int, count: int, seconds: float, keep: Path) -> Counter[str]:
    """Read `count` damaged files; those that end badly are kept in `keep`. Returns how many ended how."""
    ends: Counter[str] = Counter()
    reader = Reader(seconds)
    with tempfile.TemporaryDirectory() as folder:
        for name, data in cases(seed, count):
            path = Path(folder) / name
            path.write_bytes(data)
            end = reader.read(path)
            ends[end] += 1
            if end not in ("read", "refused"):
                (keep / name).write_bytes(data)
                print(f"{keep / name}: {end}", file=sys.stderr)
            path.unlink()
    reader.close()
    return ends


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0, help="most for one file")
    arguments = parser.parse_args()
    ends = fuzz(arguments.seed, arguments.files, arguments.seconds, Path.cwd())
    print(", ".join(f"{count} {end}" for end, count in ends.most_common()))
    return 0 if set(ends) <= {"read", "refused"} else 1


if __name__ == "__main__":
    sys.exit(main())
