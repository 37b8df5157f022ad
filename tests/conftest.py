"""Shared by all tests: one real project in small, and the bundle built from it."""

import os
from pathlib import Path

import hypothesis
import pytest

from groundwire.bundle import Bundle

# The models of the tests are small: a second thread costs more than it gives, most of all on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# How long an example takes decides nothing: machines are slow and busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with encoder, graph, data and `recipe.toml`."""
    from towns import write_project

    folder = tmp_path_factory.mktemp("towns")
    write_project(folder)
    return folder


@pytest.fixture(scope="session")
def recipe(project: Path):
    """The recipe of `project`."""
    from groundwire.export.settings import read_recipe

    return read_recipe(project / "recipe.toml")


@pytest.fixture(scope="session")
def built(project: Path, recipe) -> Bundle:
    """The bundle of `project`, with its work kept in `bundle.work`."""
    from groundwire.export.recipe import build_bundle

    return build_bundle(recipe, project / "bundle", keep_work=True)
