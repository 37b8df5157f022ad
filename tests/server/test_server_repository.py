"""A model repository: what is in it, who may change what answers, and what is refused."""

import asyncio
import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from asking import Asker, refused
from repositories import break_version, write_version
from serving import TEXTS, until
from test_server_metrics import scrape
from test_server_tensors import arrays, request
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import Bundle
from groundwire.inference import service_pb2 as pb
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import RepositoryConfig, ServerConfig
from groundwire.server.errors import ConfigurationError
from groundwire.server.repository import Repository

EXPLICIT_ALL = {"control": "explicit", "load": ("*",)}


@contextmanager
def serving(folder: Path, base: ServerConfig | None = None, seconds: float = 0.0, **options) -> Iterator[Asker]:
    plain = ServerConfig((), None, "127.0.0.1:0", "cpu", 1)
    config = dataclasses.replace(
        base or plain, repository=RepositoryConfig(folder, **options), reload_seconds=seconds, listen="127.0.0.1:0"
    )
    with BackgroundServer(config) as server, grpc.insecure_channel(server.address) as channel:
        yield Asker(channel)


def test_the_latest_version_answers_and_a_broken_model_stops_no_other(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        write_version(tmp_path, "adder", number)
    (tmp_path / "adder" / "notes").mkdir()
    (tmp_path / "adder" / "02").mkdir()
    break_version(tmp_path, "broken", 1)
    (tmp_path / "empty").mkdir()
    (tmp_path / "hollow" / "3").mkdir(parents=True)
    (tmp_path / "no name!").mkdir()
    with serving(tmp_path) as ask:
        assert ask.index() == [
            ("adder", "1", "UNAVAILABLE"),
            ("adder", "2", "UNAVAILABLE"),
            ("adder", "10", "READY"),
            ("broken", "1", "UNAVAILABLE"),
            ("empty", "", "UNAVAILABLE"),
            ("hollow", "3", "UNAVAILABLE"),
        ]
        assert ask.index(ready=True) == [("adder", "10", "READY")]
        assert "ONNX Runtime can't load the model" in ask.reason("broken")
        assert str(tmp_path) not in ask.reason("broken")
        assert "number" in ask.reason("empty")
        assert "neither model.onnx nor a bundle" in ask.reason("hollow")
        assert "not among the latest 1" in ask.reason("adder")
        assert ask.add("adder") == ask.add("adder", "10") == (10, "10")
        assert (ask.ready("adder"), ask.ready("adder", "2"), ask.ready("broken")) == (True, False, False)
        with refused("NOT_FOUND", "version 10, not '2'"):
            ask.add("adder", "2")
        with refused("UNAVAILABLE", "broken is not ready", "can't load"):
            ask.add("broken")
        with refused("NOT_FOUND", "no model is named 'nope'"):
            ask.add("nope")
        for change in (ask.load, ask.unload):
            with refused("UNAVAILABLE", "--model-control none"):
                change("adder")


def test_several_versions_answer_and_are_described_each(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_version(tmp_path, "adder", number)
    with serving(tmp_path, versions=2) as ask:
        assert [ask.add("adder"), ask.add("adder", "2"), ask.add("adder", "3")] == [(3, "3"), (2, "2"), (3, "3")]
        described = ask.stub.ModelMetadata(pb.ModelMetadataRequest(name="adder"), timeout=60)
        assert list(described.versions) == ["2", "3"]
        config = ask.stub.ModelConfig(pb.ModelConfigRequest(name="adder", version="2"), timeout=60).config
        assert config.version_policy.latest.num_versions == 2

        def counted(version: str = "") -> dict[str, int]:
            asked = pb.ModelStatisticsRequest(name="adder", version=version)
            answer = ask.stub.ModelStatistics(asked, timeout=60).model_stats
            return {one.version: one.inference_count for one in answer}

        assert counted() == {"2": 1, "3": 2}
        assert counted("2") == {"2": 1}
        everything = ask.stub.ModelStatistics(pb.ModelStatisticsRequest(), timeout=60).model_stats
        assert [(one.name, one.version) for one in everything] == [("adder", "2"), ("adder", "3")]


def test_each_version_counts_under_its_own_name(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    repository = RepositoryConfig(tmp_path, control="explicit", load=("*",))
    config = ServerConfig((), None, "127.0.0.1:0", "cpu", 1, repository=repository, metrics="127.0.0.1:0")
    with BackgroundServer(config) as server, grpc.insecure_channel(server.address) as channel:
        ask = Asker(channel)
        ask.add("adder")
        write_version(tmp_path, "adder", 2)
        ask.load("adder")
        ask.add("adder")
        ask.add("adder")
        runs = scrape(server.metrics_address)["groundwire_batch_rows_count"]
        assert runs == {("adder/1",): 1, ("adder/2",): 2}


def test_clients_load_reload_and_unload(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with serving(tmp_path, control="explicit") as ask:
        extensions = ask.stub.ServerMetadata(pb.ServerMetadataRequest(), timeout=60).extensions
        assert "model_repository" in extensions
        assert ask.index() == [("adder", "1", "UNAVAILABLE")]
        with refused("NOT_FOUND"):
            ask.add("adder")
        ask.load("adder")
        assert (ask.add("adder"), ask.ready("adder")) == ((1, "1"), True)
        write_version(tmp_path, "adder", 2)
        assert ask.add("adder") == (1, "1")  # only on request
        ask.load("adder")
        assert (ask.add("adder"), ask.index(ready=True)) == ((2, "2"), [("adder", "2", "READY")])
        write_version(tmp_path, "adder", 2, value=20)
        ask.load("adder")
        assert ask.add("adder") == (20, "2")
        ask.load("adder")  # nothing changed: what answers stays, with what it has counted
        [counted] = ask.stub.ModelStatistics(pb.ModelStatisticsRequest(name="adder"), timeout=60).model_stats
        assert counted.inference_count == 1
        ask.unload("adder")
        ask.unload("adder")
        assert ask.index(ready=True) == []
        with refused("UNAVAILABLE", "not loaded"):
            ask.add("adder")
        write_version(tmp_path, "late", 7)
        ask.load("late")
        ask.load("adder")
        assert (ask.add("late"), ask.add("adder")) == ((7, "7"), (20, "2"))


def test_a_load_that_fails_leaves_what_answered(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with serving(tmp_path, **EXPLICIT_ALL) as ask:
        break_version(tmp_path, "adder", 2)
        with refused("FAILED_PRECONDITION", "version 2", "version 1 answers"):
            ask.load("adder")
        assert ask.index() == [("adder", "1", "READY"), ("adder", "2", "UNAVAILABLE")]
        assert ask.add("adder") == (1, "1")
        write_version(tmp_path, "adder", 2)
        ask.load("adder")
        assert ask.add("adder") == (2, "2")
        break_version(tmp_path, "adder", 2)
        with refused("FAILED_PRECONDITION", "version 2 answers"):
            ask.load("adder")
        assert (ask.add("adder"), ask.index(ready=True)) == ((2, "2"), [("adder", "2", "READY")])
        assert "what lies there now is refused" in ask.reason("adder")


def test_of_two_versions_the_good_one_answers_at_the_start(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    break_version(tmp_path, "adder", 2)
    with serving(tmp_path, versions=2) as ask:
        assert ask.index() == [("adder", "1", "READY"), ("adder", "2", "UNAVAILABLE")]
        assert ask.add("adder") == (1, "1")


def test_only_those_that_are_named_are_loaded_at_the_start(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_version(tmp_path, name, 1)
    with serving(tmp_path, control="explicit", load=("two", "three")) as ask:
        assert ask.index() == [("one", "1", "UNAVAILABLE"), ("three", "", "UNAVAILABLE"), ("two", "1", "READY")]
        assert "no such model" in ask.reason("three")


@pytest.mark.parametrize("name", ["../adder", "adder/1", "/etc", ".", "..", "", "a\0b", ".hidden", "x" * 129])
def test_names_that_are_no_names_are_refused(tmp_path: Path, name: str) -> None:
    write_version(tmp_path / "models", "adder", 1)
    write_version(tmp_path, "adder", 1)
    with serving(tmp_path / "models", **EXPLICIT_ALL) as ask:
        for change in (ask.load, ask.unload):
            with refused("INVALID_ARGUMENT", "is no name of a model"):
                change(name)
        assert ask.index() == [("adder", "1", "READY")]


def test_what_would_replace_configuration_or_files_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with serving(tmp_path, **EXPLICIT_ALL) as ask:
        for name, value in (("config", {"string_param": "{}"}), ("file:1/model.onnx", {"bytes_param": b"x"})):
            asked = pb.RepositoryModelLoadRequest(model_name="adder")
            asked.parameters[name].MergeFrom(pb.ModelRepositoryParameter(**value))
            with refused("INVALID_ARGUMENT", f"parameters.{name}"):
                ask.stub.RepositoryModelLoad(asked, timeout=60)
        other = {"repository_name": "other"}
        for method, message in (
            (ask.stub.RepositoryIndex, pb.RepositoryIndexRequest(**other)),
            (ask.stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name="adder", **other)),
            (ask.stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name="adder", **other)),
        ):
            with refused("UNIMPLEMENTED", "repository_name"):
                method(message, timeout=60)
        with refused("NOT_FOUND", "holds no model named nope"):
            ask.load("nope")
        with refused("NOT_FOUND", "holds no model named nope"):
            ask.unload("nope")
        assert ask.index() == [("adder", "1", "READY")]


def test_links_out_of_the_folder_are_refused_and_links_within_are_not(tmp_path: Path) -> None:
    folder, outside = tmp_path / "models", tmp_path / "outside"
    for place in (folder / ".data", outside):
        write_version(place, "adder", 1)
    (folder / "whole").symlink_to(outside / "adder")
    for name, target in (("version", outside / "adder" / "1"), ("inside", folder / ".data" / "adder" / "1")):
        (folder / name).mkdir()
        (folder / name / "1").symlink_to(target)
    (folder / "file" / "1").mkdir(parents=True)
    (folder / "file" / "1" / "model.onnx").symlink_to(outside / "adder" / "1" / "model.onnx")
    (folder / "pipe" / "1").mkdir(parents=True)
    os.mkfifo(folder / "pipe" / "1" / "model.onnx")
    with serving(folder) as ask:
        assert ask.index(ready=True) == [("inside", "1", "READY")]
        for name in ("whole", "version", "file"):
            assert "leads out of the repository" in ask.reason(name)
        assert "neither a file nor a folder" in ask.reason("pipe")


def test_a_folder_that_is_polled_is_followed(tmp_path: Path) -> None:
    write_version(tmp_path, "adder", 1)
    with serving(tmp_path, seconds=0.02, control="poll") as ask:
        with refused("UNAVAILABLE", "--model-control poll"):
            ask.load("adder")
        write_version(tmp_path, "adder", 2)
        write_version(tmp_path, "other", 5)
        asyncio.run(until(lambda: ask.index(ready=True) == [("adder", "2", "READY"), ("other", "5", "READY")]))
        break_version(tmp_path, "adder", 3)
        asyncio.run(until(lambda: ("adder", "3", "UNAVAILABLE") in ask.index() and "can't load" in ask.reason("adder")))
        assert ask.add("adder") == (2, "2")
        write_version(tmp_path, "adder", 3)
        asyncio.run(until(lambda: ask.add("adder") == (3, "3")))
        (tmp_path / "other").rename(tmp_path / ".other")
        asyncio.run(until(lambda: all(name == "adder" for name, _, _ in ask.index())))
        with refused("NOT_FOUND"):
            ask.add("other")


def test_bundles_of_the_repository_answer_beside_those_that_were_given(
    config: ServerConfig, tiny: Bundle, tmp_path: Path
) -> None:
    (tmp_path / "texts").mkdir()
    write_tiny_bundle(tmp_path / "texts" / "4", name="of-another-name", seed=3)
    write_version(tmp_path, "tiny", 1)  # has the name of the bundle that was given
    with serving(tmp_path, config, control="explicit", load=("*",)) as ask:
        assert ask.index() == [
            ("texts", "4", "READY"),
            ("tiny", tiny.manifest.version, "READY"),
            ("tiny", "1", "UNAVAILABLE"),
        ]
        assert "given by --bundle" in ask.reason("tiny")
        texts = np.array([[text.encode()] for text in TEXTS], dtype=object)
        response = ask.stub.ModelInfer(request("texts", text=texts), timeout=60)
        alone = dataclasses.replace(config, bundles=(tmp_path / "texts" / "4",))
        with BackgroundServer(alone) as server, Client(server.address) as client:
            expected = [prediction.label.encode() for prediction in client.predict(TEXTS).predictions]
        assert (response.model_version, arrays(response)["label"].ravel().tolist()) == ("4", expected)
        ask.unload("texts")
        assert ("texts", "4", "UNAVAILABLE") in ask.index()
        with refused("FAILED_PRECONDITION", "given by --bundle"):
            ask.load("tiny")
        assert ask.ready("tiny")
    with serving(tmp_path) as ask:
        assert "give --graph" in ask.reason("texts")


def test_what_a_server_cannot_start_with(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "none", tmp_path / "file"):
        with pytest.raises(ConfigurationError, match="can't be read"):
            Repository(path)
    with pytest.raises(ConfigurationError, match="--model-versions"):
        RepositoryConfig(tmp_path, versions=0)
    with pytest.raises(ConfigurationError, match="--model-control explicit"):
        RepositoryConfig(tmp_path, load=("*",))


def test_the_settings_reach_a_worker_as_they_are(tmp_path: Path) -> None:
    given = ServerConfig((), None, repository=RepositoryConfig(tmp_path, 3, "explicit", ("a", "b"), ("c",)))
    assert ServerConfig.from_json(given.to_json()) == given
