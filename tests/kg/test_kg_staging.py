"""A build that is ended, or that another one runs beside, leaves the graph as it was and nothing beside it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from groundwire.kg import CompiledGraphError, GraphError, StoreError, compile_graph, compile_store
from groundwire.kg.format import put_in_place
from groundwire.kg.staging import staging_folder

LINE = "<http://e.org/s> <http://e.org/p> <http://e.org/o> .\n"
COMMANDS = ["compile", "store"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "place" / "a.nt"
    path.parent.mkdir()
    path.write_text(LINE)
    return path


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def started(command: str, out: Path) -> "subprocess.Popen[bytes]":
    """A build in another process that waits for its source, a pipe, once it has begun to write."""
    pipe = out.parent.parent / "pipe.nt"
    os.mkfifo(pipe)
    process = subprocess.Popen([sys.executable, "-m", "groundwire.cli", "kg", command, str(pipe), "--out", str(out)])
    while not (out.parent / f".{out.name}.partial").exists():
        assert process.poll() is None
        time.sleep(0.01)
    return process


@pytest.fixture(params=COMMANDS)
def running(request: pytest.FixtureRequest, source: Path) -> Iterator[tuple[str, Path, "subprocess.Popen[bytes]"]]:
    """A build that waits, into a folder that holds what an earlier one made."""
    out = source.parent / "out"
    (compile_graph if request.param == "compile" else compile_store)([source], out)
    process = started(request.param, out)
    yield request.param, out, process
    process.kill()
    process.wait()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 1)])
def test_a_build_that_is_ended_leaves_nothing(
    running: tuple[str, Path, "subprocess.Popen[bytes]"], number: signal.Signals, code: int
) -> None:
    _, out, process = running
    before = {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}
    process.send_signal(number)
    assert process.wait(60) == code
    assert names(out.parent) == {"a.nt", "out"}
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before


def test_of_two_builds_into_one_folder_the_second_is_refused(
    running: tuple[str, Path, "subprocess.Popen[bytes]"], source: Path
) -> None:
    command, out, process = running
    build, error = (compile_graph, CompiledGraphError) if command == "compile" else (compile_store, StoreError)
    with pytest.raises(error, match=r"another build into .*out is running"):
        build([source], out)
    build([source], out.with_name("other"))
    # A crash: what it left needs no hand to clear it away.
    process.kill()
    process.wait()
    assert ".out.partial" in names(out.parent)
    build([source], out)
    assert names(out.parent) == {"a.nt", "out", "other"}


def test_threads_that_build_into_one_folder_never_meet(tmp_path: Path) -> None:
    inside, met, built = threading.Semaphore(1), [], []

    def build() -> None:
        for _ in range(200):
            try:
                with staging_folder(tmp_path / "out", GraphError) as folder:
                    if not inside.acquire(blocking=False) or any(folder.iterdir()):
                        met.append(folder)
                    (folder / "file").write_text("")
                    built.append(folder)
                    inside.release()
            except GraphError:
                pass

    threads = [threading.Thread(target=build) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built and not met
    assert names(tmp_path) == set()


def test_a_signal_between_two_renames_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new, out = tmp_path / "new", tmp_path / "out"
    for folder in (new, out):
        folder.mkdir()
        (folder / folder.name).write_text("")
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self == new:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        put_in_place(new, out)
    assert names(out) == {"out"}
    assert names(tmp_path) == {"new", "out"}


def test_a_folder_without_a_name_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source.parent / "empty").mkdir()
    monkeypatch.chdir(source.parent / "empty")
    with pytest.raises(CompiledGraphError, match="has no name"):
        compile_graph([source], ".")
    assert names(source.parent) == {"a.nt", "empty"}
