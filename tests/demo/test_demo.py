"""`groundwire demo` on a folder that is made already, with and without a terminal, and the recipe that makes one."""

import contextlib
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from groundwire.bundle import Bundle
from groundwire.demo.make import DemoFolder
from groundwire.demo.questions import QUESTIONS
from groundwire.demo.world import FOLDER, GRAPH
from groundwire.export.settings import recipe_from_table
from groundwire.kg import compile_graph

SECONDS = 120.0
TRY_AGAIN = 10.0


@pytest.fixture(scope="module")
def folder(built: Bundle, tmp_path_factory: pytest.TempPathFactory) -> DemoFolder:
    """A demo's folder with the demo's graph and a small model in the place of its own, which takes minutes to train."""
    made = DemoFolder(tmp_path_factory.mktemp("demo"))
    shutil.copytree(built.path, made.bundle)
    compile_graph(GRAPH, made.graph)
    made.stamp()
    return made


def command(folder: DemoFolder) -> list[str]:
    # With faulthandler, so that SIGABRT tells where one that does not end stands.
    return [
        sys.executable,
        "-X",
        "faulthandler",
        "-c",
        "from groundwire.cli import main; main()",
        "demo",
        "--out",
        str(folder.path),
    ]


def read_until(terminal: int, wanted: str) -> str:
    """What a program prints to a pseudo-terminal, up to `wanted`."""
    seen = ""
    deadline = time.monotonic() + SECONDS
    while wanted not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"{wanted!r} did not come in {SECONDS} s: {seen}"
        try:
            seen += os.read(terminal, 65536).decode("utf-8", "replace")
        except OSError as error:  # the program closed it
            raise AssertionError(f"{wanted!r} never came: {seen}") from error
    return seen


def read_rest(terminal: int) -> str:
    """What a program that ends still prints to a pseudo-terminal."""
    seen = ""
    with contextlib.suppress(OSError):
        while select.select([terminal], [], [], TRY_AGAIN)[0]:
            seen += os.read(terminal, 65536).decode("utf-8", "replace")
    return seen


def test_asks_every_question_and_no_prompt_without_a_terminal(folder: DemoFolder) -> None:
    done = subprocess.run(
        command(folder), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Building" not in done.stdout
    for question in QUESTIONS:
        assert question.title in done.stdout
        assert question.text in done.stdout
    for words in ("set", "models", "sensitivity", "knowledge", "explanation", "triples read"):
        assert words in done.stdout
    assert "Try your own" not in done.stdout


def test_a_prompt_on_a_terminal_that_ctrl_d_ends(folder: DemoFolder) -> None:
    here, there = pty.openpty()
    with subprocess.Popen(command(folder), stdin=there, stdout=there, stderr=subprocess.STDOUT) as program:
        os.close(there)
        try:
            read_until(here, "Try your own")
            os.write(here, "Reykjavík is the capital of Iceland.\n".encode())
            assert "Reykjavík" in read_until(here, "relevance")
            os.write(here, b"\x04")
            assert program.wait(SECONDS) == 0
        finally:
            program.kill()
            os.close(here)


def test_ctrl_c_at_the_prompt_ends_it_cleanly(folder: DemoFolder) -> None:
    here, there = pty.openpty()
    with subprocess.Popen(command(folder), stdin=there, stdout=there, stderr=subprocess.STDOUT) as program:
        os.close(there)
        try:
            if ">" not in read_until(here, "Try your own").partition("Try your own")[2]:
                read_until(here, ">")  # unless it came along with the line before
            # Between the prompt and the system call that waits for a line, a signal is noted and not acted on until the
            # next one; a person presses the key again.
            for _ in range(int(SECONDS / TRY_AGAIN)):
                program.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    program.wait(TRY_AGAIN)
                    break
            else:
                program.send_signal(signal.SIGABRT)
                pytest.fail(f"it does not end: {read_rest(here)}")
            assert program.returncode == 0
        finally:
            program.kill()
            os.close(here)


def test_a_folder_is_current_until_something_changes(folder: DemoFolder, tmp_path: Path) -> None:
    assert folder.is_current()
    assert not DemoFolder(tmp_path / "missing").is_current()
    shutil.copytree(folder.path, tmp_path / "demo")
    other = DemoFolder(tmp_path / "demo")
    assert other.is_current()
    stamp = other.path / "made-from.json"
    stamp.write_text(stamp.read_text().replace('"seed": ', '"seed": 1'))
    assert not other.is_current()
    stamp.write_text("{")
    assert not other.is_current()


def test_the_recipe_is_one() -> None:
    text = (FOLDER / "demo.toml").read_text(encoding="utf-8")
    recipe = recipe_from_table(tomllib.loads(text), text, FOLDER, "demo.toml")
    assert recipe.train.adversary.epsilon > 0, "the demo trains adversarially"
    assert recipe.graph.train_entities == recipe.graph.test_entities == "linked"
