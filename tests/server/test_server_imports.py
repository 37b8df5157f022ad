"""The serving side runs where torch, transformers and onnx are not installed."""

import subprocess
import sys

from groundwire.bundle import Bundle

PROGRAM = """
import sys
from pathlib import Path

BLOCKED = {"torch", "transformers", "onnx", "onnxscript", "sklearn", "matplotlib", "safetensors"}

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Block())

import pkgutil, importlib
import groundwire.server
for module in pkgutil.iter_modules(groundwire.server.__path__):
    importlib.import_module(f"groundwire.server.{module.name}")
import groundwire.cli.serve, groundwire.cli.predict
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import ServerConfig

bundle, graph = map(Path, sys.argv[1:])
with BackgroundServer(ServerConfig((bundle,), graph, "127.0.0.1:0")) as server, Client(server.address) as client:
    print(client.predict(["Paris is the capital of France."]).predictions[0].label)
assert not BLOCKED & {name.split(".")[0] for name in sys.modules}
assert not any(name.startswith("groundwire.export") for name in sys.modules)
"""


def test_the_server_runs_without_the_toolchain(tiny: Bundle, graph) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tiny.path, graph], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in tiny.manifest.labels
