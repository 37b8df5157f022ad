"""The examples of the documentation, run as they stand; only the address of the server differs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from groundwire.bundle import Bundle
from groundwire.export.settings import GateSettings, Recipe, recipe_from_table
from groundwire.server.app import BackgroundServer
from groundwire.server.config import ServerConfig

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:50051"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ groundwire")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def folder(project: Path, built: Bundle, tmp_path: Path) -> Path:
    """A folder with the files that the README names."""
    for name in ("train.jsonl", "test.jsonl", "towns.ttl", "recipe.toml"):
        shutil.copy(project / name, tmp_path / name)
    shutil.copy(project / "towns.ttl", tmp_path / "countries.ttl")
    some = (project / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:24]  # an attack takes long
    (tmp_path / "dev.jsonl").write_text("".join(some), encoding="utf-8")
    shutil.copytree(project / "encoder", tmp_path / "encoder")
    shutil.copytree(built.path, tmp_path / "bundle")
    return tmp_path


def test_the_commands_of_the_readme_run(folder: Path):
    names = [command[0] for command in commands()]
    assert names == ["kg", "kg", "build", "serve", "predict", "evaluate", "attack"]
    run_cli = "import sys; from groundwire.cli import main; main(sys.argv[1:])"
    server: subprocess.Popen[str] | None = None
    address = ADDRESS
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    try:
        for command in commands():
            arguments = [part.replace(ADDRESS, "127.0.0.1:0" if command[0] == "serve" else address) for part in command]
            process = subprocess.Popen(
                [sys.executable, "-c", run_cli, *arguments], cwd=folder, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL if command[0] == "serve" else subprocess.PIPE,
            )  # fmt: skip
            if command[0] == "serve":
                server = process
                assert process.stdout is not None
                address = process.stdout.readline().removeprefix("listening on ").strip()
                continue
            out, err = process.communicate()
            assert process.returncode == 0, (arguments, err)
            assert command[0] == "kg" or out.strip()
    finally:
        if server is not None:
            server.terminate()
            assert server.wait() == 0


def test_the_python_of_the_readme_runs(folder: Path, capsys: pytest.CaptureFixture[str]):
    (code,) = blocks("python")
    assert ADDRESS in code
    with BackgroundServer(ServerConfig((folder / "bundle",), folder / "countries.ttl", "127.0.0.1:0")) as server:
        exec(compile(code.replace(ADDRESS, server.address), "README.md", "exec"), {})
    assert re.match(r"(supported|contradicted|not_enough_info) [01]\.\d+ \[", capsys.readouterr().out)


def test_links_in_the_documents_lead_somewhere():
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    for document in documents:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_table_of_recipe_keys_is_whole_and_its_defaults_are_the_code_s(project: Path):
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`[^|]+)\|([^|]*)\|", text, flags=re.MULTILINE)
    documented = {key: default.strip() for keys, default in cells for key in re.findall(r"`([\w.]+)`", keys)}
    least = {"name": "x", "data": {"train": "a", "test": "b"}, "encoder": {"name": "c"}}
    defaults = flatten(recipe_from_table(least, "", project, "here"))
    assert set(documented) == set(defaults)
    for key, default in documented.items():
        if default.startswith("`"):
            shown = default.strip("`").strip('"')
            assert shown == str(defaults[key]).replace("(", "[").replace(",)", "]").replace(")", "]"), key
        elif re.fullmatch(r"[\d.e-]+", default):
            assert float(default) == defaults[key], key


def flatten(settings: object, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name in type(settings).__slots__:  # type: ignore[attr-defined]
        if isinstance(settings, Recipe) and name in {"text", "folder"}:
            continue
        value = getattr(settings, name)
        if hasattr(type(value), "__slots__") and type(value).__module__ == GateSettings.__module__:
            found |= flatten(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
