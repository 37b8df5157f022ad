"""Loading: what is damaged, contradictory or missing is refused at start with a message that says what to do."""

import dataclasses
import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tiny_bundle import write_tiny_bundle

from groundwire.bundle import INPUTS, MANIFEST, MODEL, OUTPUTS, TOKENIZER, Bundle, open_bundle, seal_bundle
from groundwire.errors import BundleError, GroundwireError
from groundwire.kg import CompiledGraphError, SourceError
from groundwire.kg.encode import EncodedPair
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client
from groundwire.server.config import Limits, ServerConfig, split_address
from groundwire.server.errors import ConfigurationError, ProviderError
from groundwire.server.providers import choose_provider, run_session
from groundwire.server.runtime import Runtime


def start(config: ServerConfig) -> None:
    with BackgroundServer(config):
        raise AssertionError("the server started")


@pytest.fixture
def copy(tiny: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.path, tmp_path / "copy"))


def rewrite(bundle: Path, change) -> None:
    """Change the ONNX graph and seal the bundle anew, so that only the change itself is wrong with it."""
    manifest = open_bundle(bundle).manifest
    staging = bundle.with_name("staging")
    shutil.copytree(bundle, staging)
    model = onnx.load_model(staging / MODEL)
    change(model)
    (staging / MODEL).write_bytes(model.SerializeToString())
    seal_bundle(staging, manifest, bundle)


def with_bundle(config: ServerConfig, *bundles: Path) -> ServerConfig:
    return ServerConfig(bundles, config.graph, "127.0.0.1:0", "cpu")


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "certificate.json", "manifest.json"])
def test_a_missing_or_cut_off_file(config: ServerConfig, copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match=name):
        start(with_bundle(config, copy))
    (copy / name).unlink()
    with pytest.raises(BundleError, match=name):
        start(with_bundle(config, copy))


def test_a_changed_byte_in_the_model(config: ServerConfig, copy: Path) -> None:
    content = bytearray((copy / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / MODEL).write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx.*SHA-256"):
        start(with_bundle(config, copy))


def test_a_model_changed_after_loading_is_not_read_again(config: ServerConfig, copy: Path) -> None:
    with BackgroundServer(with_bundle(config, copy)) as server, Client(server.address) as client:
        before = client.predict(["Paris"])
        (copy / MODEL).write_bytes(b"")
        assert client.predict(["Paris"]) == before


def test_no_bundle_there(config: ServerConfig, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="groundwire build"):
        start(with_bundle(config, tmp_path / "nowhere"))
    with pytest.raises(ConfigurationError, match="--bundle"):
        start(with_bundle(config))


def test_two_bundles_of_one_name(config: ServerConfig, copy: Path) -> None:
    with pytest.raises(ConfigurationError, match="both named tiny"):
        start(with_bundle(config, config.bundles[0], copy))


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "tokens"
    model.graph.node[0].input[1] = "tokens"


def drop_output(model: onnx.ModelProto) -> None:
    del model.graph.output[-1]


def freeze_batch(model: onnx.ModelProto) -> None:
    for tensor in model.graph.input:
        tensor.type.tensor_type.shape.dim[0].dim_value = 1


def freeze_inside(model: onnx.ModelProto) -> None:
    """The declared axes stay free, but a Reshape within holds for one row only."""
    [shape] = [i for i in model.graph.initializer if i.name == "by_head"]
    array = numpy_helper.to_array(shape).copy()
    array[0] = 1
    shape.CopyFrom(numpy_helper.from_array(array, "by_head"))


def garble(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (rename_input, "input_ids"),
        (drop_output, "no output distance"),
        (freeze_batch, "must be free"),
        (freeze_inside, "2 rows"),
        (garble, "can't load"),
    ],
)
def test_a_model_that_is_not_what_the_manifest_says(config: ServerConfig, copy: Path, change, what: str) -> None:
    rewrite(copy, change)
    with pytest.raises(BundleError, match=what):
        start(with_bundle(config, copy))


def test_labels_that_the_model_lacks(config: ServerConfig, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    manifest.labels.append("one too many")
    staging = copy.with_name("staging")
    shutil.copytree(copy, staging)
    seal_bundle(staging, manifest, copy)
    with pytest.raises(BundleError, match="logits"):
        start(with_bundle(config, copy))


def test_a_tokenizer_that_is_none(config: ServerConfig, copy: Path) -> None:
    manifest = open_bundle(copy).manifest
    staging = copy.with_name("staging")
    shutil.copytree(copy, staging)
    (staging / TOKENIZER).write_text("{}")
    seal_bundle(staging, manifest, copy)
    with pytest.raises(BundleError, match=TOKENIZER):
        start(with_bundle(config, copy))


def test_graphs_that_are_none(config: ServerConfig, tmp_path: Path, graph: Path) -> None:
    broken = tmp_path / "broken.ttl"
    broken.write_text("@prefix : <http://example.org/> .\n:a :b ;;; <", encoding="utf-8")
    with pytest.raises(SourceError, match=r"broken\.ttl"):
        start(ServerConfig(config.bundles, broken, "127.0.0.1:0"))
    with pytest.raises(GroundwireError, match=r"nowhere\.ttl"):
        start(ServerConfig(config.bundles, tmp_path / "nowhere.ttl", "127.0.0.1:0"))
    copied = Path(shutil.copytree(graph, tmp_path / "graph"))
    largest = max(copied.iterdir(), key=lambda file: file.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-8])
    with pytest.raises(CompiledGraphError):
        start(ServerConfig(config.bundles, copied, "127.0.0.1:0"))


def test_an_address_in_use(config: ServerConfig) -> None:
    with BackgroundServer(config) as running, pytest.raises(ConfigurationError, match="--listen"):
        start(ServerConfig(config.bundles, config.graph, running.address))


@pytest.mark.parametrize("listen", ["nonsense", "localhost:", ":50051", "localhost:99999", "localhost:-1", "a:b"])
def test_an_address_that_is_none(listen: str) -> None:
    with pytest.raises(ConfigurationError, match="HOST:PORT"):
        split_address(listen)


def test_addresses() -> None:
    assert split_address("[::1]:50051") == ("[::1]", 50051)
    assert split_address("localhost:0") == ("localhost", 0)


def test_limits_must_be_positive() -> None:
    with pytest.raises(ConfigurationError, match="batch_rows"):
        Limits(batch_rows=0)


def test_config_survives_the_way_to_a_worker(config: ServerConfig) -> None:
    assert ServerConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_missing_is_an_error(config: ServerConfig, provider) -> None:
    available = ort.get_available_providers()
    if any(provider in name.lower() for name in available):
        pytest.skip("this ONNX Runtime has it")
    with pytest.raises(ProviderError, match=r"groundwire\[gpu\]"):
        start(ServerConfig(config.bundles, config.graph, "127.0.0.1:0", provider))


def test_auto_picks_and_says_why(tiny: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    cpu, cuda, tensorrt = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
    assert choose_provider("auto", [cpu]).name == "cpu"
    assert choose_provider("auto", [tensorrt, cuda, cpu]).name == "cuda"
    assert choose_provider("tensorrt", [tensorrt, cuda, cpu]).providers == [tensorrt, cuda, cpu]
    with caplog.at_level(logging.INFO, "groundwire.server"):
        runtime = Runtime(tiny, 0, "auto", 1)
    runtime.close()
    [record] = [r for r in caplog.records if r.getMessage() == "model loaded"]
    assert record.fields["provider"] == runtime.provider
    assert record.fields["why"].startswith("auto:")


def test_bound_tensors_give_the_same_answers(tiny: Bundle) -> None:
    """As on a device, which these tests may lack: the binding itself works on every provider."""
    runtime = Runtime(tiny, 0, "cpu", 1)
    try:
        rows = [EncodedPair([2, 5, 9, 3], [0, 0, 1, 1], (), text_truncated=False)] * 2
        plain = runtime.run(rows)
        runtime._bound = True
        for one, other in zip(dataclasses.astuple(plain), dataclasses.astuple(runtime.run(rows)), strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)
        backwards = np.array([[0, 1, 1], [1, 0, 1]])[:, ::-1]  # not as it lies in memory
        feeds = dict.fromkeys(INPUTS, backwards)
        bound, usual = (run_session(runtime._session, OUTPUTS, feeds, bound=bound) for bound in (True, False))
        assert all(map(np.array_equal, bound, usual))
    finally:
        runtime.close()


def test_a_manifest_of_the_future(config: ServerConfig, copy: Path) -> None:
    text = (copy / MANIFEST).read_text().replace('"format_version": 1', '"format_version": 2', 1)
    (copy / MANIFEST).write_text(text)
    with pytest.raises(BundleError, match="format 2"):
        start(with_bundle(config, copy))


def test_the_bundle_writer_of_these_tests_is_deterministic(tiny: Bundle, tmp_path: Path) -> None:
    again = write_tiny_bundle(tmp_path / "tiny")
    assert again.manifest == tiny.manifest
