"""What a build refuses, and says of it: recipes, data and folders that are wrong, and stages that lost too much."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from groundwire.bundle import Bundle, open_bundle
from groundwire.errors import BundleError
from groundwire.export import onnx_graph
from groundwire.export.data import read_examples
from groundwire.export.errors import DataError, EncoderError, RecipeError, StageError
from groundwire.export.model import TextClassifier, load_encoder, resolve_encoder
from groundwire.export.recipe import build_bundle
from groundwire.export.settings import Recipe, read_recipe
from groundwire.kg.staging import sole_build


def test_gates_refuse_a_stage_that_lost_too_much(project: Path, recipe: Recipe, built: Bundle, tmp_path: Path):
    shutil.copytree(project / "bundle.work", tmp_path / "strict.work")
    strict = dataclasses.replace(recipe, gates=dataclasses.replace(recipe.gates, onnx_difference=0.0))
    with pytest.raises(StageError, match="differ by"):
        build_bundle(strict, tmp_path / "strict")
    strict = dataclasses.replace(recipe, gates=dataclasses.replace(recipe.gates, weights_accuracy_loss=-1.0))
    with pytest.raises(StageError, match="weights in int8 lost"):
        build_bundle(strict, tmp_path / "strict")
    assert not (tmp_path / "strict").exists()


def test_a_bundle_does_not_overwrite_something_else(project: Path, recipe: Recipe, built: Bundle, tmp_path: Path):
    shutil.copytree(project / "bundle.work", tmp_path / "taken.work")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("keep me")
    with pytest.raises(BundleError, match="not a bundle"):
        build_bundle(recipe, tmp_path / "taken")
    assert (tmp_path / "taken" / "letter.txt").read_text() == "keep me"


def test_a_folder_that_is_not_of_a_build_is_left_alone(recipe: Recipe, tmp_path: Path):
    (tmp_path / "mine.work").mkdir()
    (tmp_path / "mine.work" / "letter.txt").write_text("keep me")
    with pytest.raises(StageError, match="holds something else"):
        build_bundle(recipe, tmp_path / "mine")
    assert (tmp_path / "mine.work" / "letter.txt").read_text() == "keep me"


def test_of_two_builds_into_one_folder_the_second_is_refused(recipe: Recipe, tmp_path: Path):
    with (
        sole_build(tmp_path / "bundle", StageError),
        pytest.raises(StageError, match=r"another build into .*bundle is running"),
    ):
        build_bundle(recipe, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_told_to_end_leaves_what_it_can_go_on_with(project: Path, tmp_path: Path):
    out = tmp_path / "bundle"
    command = [sys.executable, "-m", "groundwire.cli", "build", str(project / "recipe.toml"), "--out", str(out)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (tmp_path / "bundle.work" / "training").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert {path.name for path in tmp_path.iterdir()} == {"bundle.work"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.onnx", "SHA-256"),
        ("certificate.json", "SHA-256"),
        (None, "can't be read"),
        ("format", "format 99"),
        ("labels", "labels must be"),
        ("path", "plain file name"),
        ("null", "plain file name"),
        ("version", "not that of the model"),
        ("scores", "conformal scores"),
        ("json", "not a valid BundleManifest"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(built: Bundle, tmp_path: Path, change: str | None, message: str):
    folder = tmp_path / "bundle"
    shutil.copytree(built.path, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    if change is None:
        (folder / "tokenizer.json").unlink()
    elif change == "json":
        (folder / "manifest.json").write_text("{")
    elif change in {"format", "labels", "path", "null", "version", "scores"}:
        manifest |= {"format": {"format_version": 99}, "labels": {"labels": ["a", "a"]},
                     "path": {"files": manifest["files"] | {"../x": "00"}},
                     "null": {"files": manifest["files"] | {"x\0": "00"}}, "version": {"version": "7"},
                     "scores": {"conformal": [manifest["conformal"][0] | {"scores": [0.5, 0.1]}]}}[change]  # fmt: skip
        (folder / "manifest.json").write_text(json.dumps(manifest))
    else:
        content = bytearray((folder / change).read_bytes())
        content[len(content) // 2] ^= 1
        (folder / change).write_bytes(content)
    with pytest.raises(BundleError, match=message):
        open_bundle(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not TOML"),
        ("name = 'x'", "is missing"),
        ("name = 'x'\nspeed = 3\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'", "unknown key speed"),
        ("name = 'x'\n[data]\ntrain=1\ntest='b'\n[encoder]\nname='c'", "data.train must be a string"),
        ("name = 'x'\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'\n[train.adversary]\nnorm='l9'", "norm must be"),
        ("name = 'x'\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'\n[policy]\ncoverage=1.5", "coverage must lie"),
        ("name = 'x'\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'\nnormalise='all'", "normalise must be one of"),
        ("name = 'x'\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'\n[train.augment]\nunknown=0.1", "neutral_label"),
        ("name = 'x'\ndata = 3\n[encoder]\nname='c'", "data must be a table"),
        *(
            (f"name = 'x'\n[data]\ntrain='a'\ntest='b'\n{data}\n[encoder]\nname='c'\n{more}", message)
            for data, more, message in (
                ("train_limit=-3", "", "train_limit must be 0"),
                ("calibration='a'", "", "train must be a file of its own"),
                ("calibration='b'", "", "calibration must be a file of its own"),
                ("", "[train]\nlearning_rate=nan", "must be a finite number"),
                ("", "[train]\nlearning_rate=-1.0", "must be above 0"),
                ("", "[train]\nwarmup=5.0", "warmup must be"),
                ("", "[train.adversary]\nepsilon=0.1\nfirst_epoch=2.0", "first_epoch must be"),
                ("", "[train.augment]\nunknown=0.1\nneutral_label='n'", "needs a graph"),
                ("", "[certify]\nepsilons=[inf]", "must be a finite number"),
                ("", "[certify]\nepsilons=[true]", "must be a number"),
                ("", "[certify]\nrobust_share=2.0", "robust_share must lie"),
                ("", "[gates]\nweights_accuracy_loss=nan", "must be a finite number"),
            )
        ),
        ("name = 'my model'\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'", "name must be 1 to 128"),
        ("name = 'x'\nseed=-1\n[data]\ntrain='a'\ntest='b'\n[encoder]\nname='c'", "seed must be"),
    ],
)
def test_a_recipe_with_a_mistake_names_it(tmp_path: Path, text: str, message: str):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.toml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "1", "text": "a"}', "r.jsonl:2: 'label' must be"),
        ("[1]", "r.jsonl:2: must be a JSON object"),
        ("{oops", "r.jsonl:2: not JSON"),
        ('{"id": "1", "text": " ", "label": "x"}', "r.jsonl:2: 'text' must be"),
        ('{"id": "1", "text": "a", "label": "x", "entities": "e"}', "r.jsonl:2: 'entities' must be"),
        (r'{"id": "1", "text": "half \ud83d", "label": "x"}', "r.jsonl:2: 'text' holds half of a surrogate pair"),
    ],
)
def test_data_with_a_mistake_names_the_line(tmp_path: Path, line: str, message: str):
    (tmp_path / "r.jsonl").write_text('{"id": "0", "text": "good", "label": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_examples(tmp_path / "r.jsonl")


def test_data_that_is_not_text_and_encoders_that_are_not_there_say_so(tmp_path: Path):
    (tmp_path / "r.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_examples(tmp_path / "r.jsonl")
    with pytest.raises(EncoderError, match="not installed"):
        resolve_encoder("package:no_such_package_here")
    with pytest.raises(EncoderError, match="no such folder"):
        resolve_encoder(str(tmp_path / "nowhere"))


def test_rows_longer_than_the_encoder_reads_are_refused_before_training(recipe: Recipe, tmp_path: Path):
    long = dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, max_tokens=4000))
    with pytest.raises(StageError, match="max_tokens of 4000"):
        build_bundle(long, tmp_path / "bundle")


def test_gold_entities_must_be_there(recipe: Recipe, project: Path, tmp_path: Path):
    lines = [json.loads(line) for line in (project / "train.jsonl").read_text().splitlines()]
    bare = tmp_path / "train.jsonl"
    bare.write_text("".join(json.dumps(line | {"entities": []}) + "\n" for line in lines))
    data = dataclasses.replace(recipe.data, train=str(bare))
    with pytest.raises(DataError, match="train_entities is 'gold'"):
        build_bundle(dataclasses.replace(recipe, data=data), tmp_path / "bundle")


def test_a_graph_that_gives_no_numbers_does_not_pass(built: Bundle, project: Path, monkeypatch: pytest.MonkeyPatch):
    class Broken:
        def run(self, *_: object) -> list[np.ndarray]:
            return [np.full((2, 5, 3), np.nan, np.float32)]

    monkeypatch.setattr(onnx_graph, "session", lambda _: Broken())
    model = TextClassifier(load_encoder(read_recipe(project / "recipe.toml").encoder_name), 3, 5).eval()
    ids = torch.ones((2, 8), dtype=torch.long)
    with pytest.raises(StageError, match="no finite numbers"):
        onnx_graph.check_parity(model, Path("x.onnx"), [(ids, ids, ids)], 1.0)


def test_a_bundle_takes_the_place_of_no_link(recipe: Recipe, built: Bundle, tmp_path: Path):
    (tmp_path / "link").symlink_to(built.path)
    with pytest.raises(BundleError, match="is a link"):
        build_bundle(recipe, tmp_path / "link")
