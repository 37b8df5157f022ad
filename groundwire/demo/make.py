"""The demo's folder: claims, compiled graph and bundle, made when they are missing or of other inputs."""

import hashlib
import json
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from groundwire.bundle import FORMAT_VERSION as BUNDLE_FORMAT
from groundwire.demo.claims import SEED, write_claims
from groundwire.demo.world import FOLDER, GRAPH
from groundwire.errors import GroundwireError
from groundwire.kg import compile_graph
from groundwire.kg.format import FORMAT_VERSION as GRAPH_FORMAT

# What the bundle is made from: all of it lies in this package.
_INPUTS = ("world.trig", "withheld.ttl", "wordings.toml", "demo.toml", "world.py", "claims.py", "make.py")
_STAMP = "made-from.json"


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where the demo keeps what it made. `graph` is a compiled graph, `bundle` a bundle."""

    path: Path

    @property
    def graph(self) -> Path:
        """The compiled graph."""
        return self.path / "graph"

    @property
    def bundle(self) -> Path:
        """The bundle."""
        return self.path / "bundle"

    def is_current(self) -> bool:
        """Whether all is there, and made from what would be used now. Needs no torch."""
        try:
            stamp = json.loads((self.path / _STAMP).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(stamp == _inputs()) and self.graph.is_dir() and self.bundle.is_dir()

    def stamp(self) -> None:
        """Note what the folder was made from, so that the next run finds it current."""
        (self.path / _STAMP).write_text(json.dumps(_inputs(), indent=2) + "\n", encoding="utf-8")

    def make(self) -> None:
        """Write the claims, compile the graph, train and export the model. An interrupted run goes on where it was.

        Raises:
            ModuleNotFoundError: the toolchain is not installed.
            GroundwireError: a stage failed, or the folder can't be written.
        """
        # These take seconds to import, and torch, which a demo that is made already does without.
        from groundwire.export.recipe import build_bundle  # noqa: PLC0415
        from groundwire.export.settings import recipe_from_table  # noqa: PLC0415

        try:
            write_claims(self.path)
            compile_graph(GRAPH, self.graph)
            text = (FOLDER / "demo.toml").read_text(encoding="utf-8")
            recipe = recipe_from_table(tomllib.loads(text), text, self.path.resolve(), "the demo's recipe")
            build_bundle(recipe, self.bundle)
            self.stamp()
        except OSError as error:
            raise GroundwireError(f"the demo can't write to {self.path}: {error}; choose another --out.") from error


def _inputs() -> dict[str, str | int]:
    """What a bundle depends on: hashes of this package's files, the seed, versions of Groundwire and its formats."""
    hashes = {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in _INPUTS}
    formats = {"graph format": GRAPH_FORMAT, "bundle format": BUNDLE_FORMAT}
    return {"groundwire": version("groundwire"), "seed": SEED, **formats, **hashes}
