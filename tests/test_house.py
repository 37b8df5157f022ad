"""What holds the house together: generated stubs, the wire contract, the packaging."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_committed_stubs_are_those_of_the_protos():
    result = run("bash", "scripts/generate_stubs.sh", "--check")
    assert result.returncode == 0, result.stdout + result.stderr


def test_protos_pass_buf_lint_with_a_comment_on_every_field():
    result = run(str(Path(sys.executable).parent / "buf"), "lint", "proto")
    assert result.returncode == 0, result.stdout


def test_packages_are_links_to_the_top_level_folders():
    for name in ("kg", "export", "server"):
        assert (ROOT / "groundwire" / name).readlink() == Path("..") / name


def test_the_base_install_asks_for_neither_torch_nor_transformers_nor_a_choice_of_onnxruntime():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = " ".join(project["dependencies"])
    assert not any(name in base for name in ("torch", "transformers", "onnx"))
    assert [d.split(">")[0] for d in project["optional-dependencies"]["gpu"]] == ["onnxruntime-gpu"]


def test_every_pinned_version_satisfies_what_is_installed_here():
    from importlib.metadata import version

    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"
    )
    different = {name: version(name).split("+")[0] for name, pin in pins.items() if version(name).split("+")[0] != pin}
    assert not different
