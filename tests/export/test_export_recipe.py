"""A recipe from data and graph to a bundle, and its numbers recomputed by other means."""

import dataclasses
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from groundwire import metrics
from groundwire.bundle import CERTIFICATE_PAGE, INPUTS, OUTPUTS, Bundle, open_bundle
from groundwire.export import onnx_graph
from groundwire.export.artifact import OnnxArtifact
from groundwire.export.calibrate import ensemble_probabilities
from groundwire.export.data import Example, read_examples, split_by_entity
from groundwire.export.model import TextClassifier, TextTask, encoder_hash, load_encoder
from groundwire.export.prepare import open_recipe_graph, prepare
from groundwire.export.recipe import build_bundle
from groundwire.export.rows import Row, TextBatches, collate, ordered_batches, spread
from groundwire.export.settings import Recipe
from groundwire.export.train_stage import open_work
from groundwire.v1 import bundle_pb2


def feeds(rows: int = 5, tokens: int = 9) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    mask = np.ones((rows, tokens), dtype=np.int64)
    mask[0, 5:] = 0
    ids, types = rng.integers(4, 60, (rows, tokens)), rng.integers(0, 2, (rows, tokens))
    return dict(zip(INPUTS, (ids, mask, types), strict=True))


def test_the_model_learned_its_task_and_the_certificate_says_how_well(built: Bundle):
    names = [stage.name for stage in built.certificate.stages]
    assert names == ["trained", "onnx-float32", "onnx-int8"]
    for stage in built.certificate.stages:
        assert stage.clean_accuracy.value > 0.9
        assert stage.clean_accuracy.low < stage.clean_accuracy.value <= stage.clean_accuracy.high
        small, large = stage.robust_accuracy
        assert (small.epsilon, large.epsilon) == (0.002, 0.05)
        assert large.accuracy.value <= small.accuracy.value <= stage.clean_accuracy.value + 0.05
        assert stage.latency.p99_ms >= stage.latency.p50_ms > 0
        assert [c.target for c in stage.conformal] == [0.8, 0.9, 0.95]
    assert [stage.robust_accuracy[0].gradients for stage in built.certificate.stages] == ["own", "trained", "trained"]
    sizes = [stage.size_bytes for stage in built.certificate.stages]
    assert sizes[2] < sizes[1]
    page = (built.path / CERTIFICATE_PAGE).read_text(encoding="utf-8")
    assert page.count("<svg") == 3
    assert "towns" in page


def test_the_manifest_holds_what_was_fitted_on_the_quantized_model(built: Bundle, project: Path):
    manifest = built.manifest
    assert list(manifest.labels) == ["contradicted", "not_enough_info", "supported"]
    core = onnx_graph.session(project / "bundle.work" / "int8.onnx")
    assert manifest.calibration.fitted_on == built.certificate.stages[-1].artifact
    assert manifest.calibration.examples > 40
    assert [q.method for q in manifest.conformal] == [1, 2, 3]
    assert all(len(q.scores) == manifest.calibration.examples for q in manifest.conformal)
    knots = list(manifest.out_of_distribution.distance_quantiles)
    assert knots == sorted(knots)
    assert manifest.robust_margin.epsilon == 0.002
    assert manifest.provenance.data["train"]
    assert manifest.provenance.graph_version
    assert "torch" in manifest.provenance.packages
    assert core.get_outputs()[0].name == "head_logits"


def test_probabilities_and_uncertainty_in_the_graph_agree_with_numpy(built: Bundle, project: Path):
    (head_logits, features) = onnx_graph.session(project / "bundle.work" / "int8.onnx").run(None, feeds())
    out = dict(zip(OUTPUTS, onnx_graph.session(built.model).run(list(OUTPUTS), feeds()), strict=True))
    t = built.manifest.calibration.temperature
    p = ensemble_probabilities(head_logits.astype(np.float64), t)
    heads = np.exp(head_logits / t) / np.exp(head_logits / t).sum(axis=-1, keepdims=True)

    def entropy(q: np.ndarray) -> np.ndarray:
        return -(q * np.log(q)).sum(axis=-1)

    assert np.allclose(out["logits"], head_logits.mean(axis=1), atol=1e-5)
    assert np.allclose(out["probabilities"], p, atol=1e-5)
    assert np.allclose(out["head_probabilities"], heads, atol=1e-5)
    assert np.allclose(out["entropy"], entropy(p), atol=1e-5)
    assert np.allclose(out["mutual_information"], entropy(p) - entropy(heads).mean(axis=1), atol=1e-5)
    energy = -t * np.log(np.exp(head_logits.mean(axis=1) / t).sum(axis=1))
    assert np.allclose(out["energy"], energy, atol=1e-4)
    assert np.isfinite(out["distance"]).all()
    assert out["distance"].std() > 0
    assert features.shape == (5, 32)


def test_distances_are_mahalanobis_distances_of_the_fitted_gaussians():
    from sklearn.covariance import LedoitWolf

    from groundwire.export.certify import relative_distance
    from groundwire.export.uncertainty_graph import fit_features

    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    x = rng.normal(size=(300, 5)) @ rng.normal(size=(5, 5)) + 3 * np.eye(5)[labels]
    got = relative_distance(x, fit_features(x, labels, 3))
    means = np.stack([x[labels == c].mean(axis=0) for c in range(3)])
    near = LedoitWolf(assume_centered=True).fit(x - means[labels]).precision_
    far = LedoitWolf(assume_centered=True).fit(x - x.mean(axis=0)).precision_
    expected = np.min([np.einsum("ni,ij,nj->n", x - m, near, x - m) for m in means], axis=0)
    expected -= np.einsum("ni,ij,nj->n", x - x.mean(axis=0), far, x - x.mean(axis=0))
    assert np.allclose(got, expected)


def test_rows_in_a_padded_batch_answer_as_they_do_alone(project: Path):
    core = onnx_graph.session(project / "bundle.work" / "float32.onnx")
    batch = feeds()
    together = core.run(None, batch)[0][0]
    alone = core.run(None, {name: value[:1, :5] for name, value in batch.items()})[0][0]
    assert np.allclose(together, alone, atol=1e-4)


@pytest.mark.parametrize("graph", ["float32.onnx", "int8.onnx"])
def test_a_graph_opened_at_its_embeddings_is_the_same_function(project: Path, graph: str):
    model = TextClassifier(load_encoder(str(project / "encoder")), 3, 3)
    model.load_state_dict(load_file(project / "bundle.work" / "trained.safetensors"))
    artifact = OnnxArtifact("x", project / "bundle.work" / graph)
    batch = collate([Row([2, 9, 11, 3, 12, 3], [0, 0, 0, 0, 1, 1], 0, 0), Row([2, 7, 3], [0, 0, 0], 1, 1)], 0)
    with torch.no_grad():
        point = TextTask(model.eval()).point(batch)
    assert np.allclose(artifact.run(batch)[0], artifact.run_point(point, batch), atol=1e-6)
    assert not np.allclose(artifact.run(batch)[0], artifact.run_point(point * 0.5, batch), atol=1e-3)


def test_quantization_changes_the_encoder_and_leaves_the_heads(project: Path):
    graph = onnx.load(str(project / "bundle.work" / "int8.onnx")).graph
    kinds = Counter(node.op_type for node in graph.node)
    assert kinds["QAttention"] == 2
    assert kinds["MatMulIntegerToFloat"] == 2 * 3
    assert not kinds.keys() & {"MatMulInteger", "SkipLayerNormalization", "BiasGelu"}
    assert {n.op_type for n in graph.node if "/heads/" in n.name} <= {
        "Gemm", "MatMul", "Add", "Tanh", "Reshape", "Transpose",
    }  # fmt: skip


def test_the_certificate_says_what_evaluating_the_served_model_shows(built: Bundle, project: Path, recipe: Recipe):
    from groundwire.kg import open_graph

    _, calibration = split_by_entity(read_examples(project / "test.jsonl"), 0.5, recipe.seed)
    test = [e for e in read_examples(project / "test.jsonl") if e not in calibration]
    encoder = built.encoder()
    session, retriever = onnx_graph.session(built.model), open_graph(project / "towns.ttl")
    probabilities = []
    for example in test:
        pair = encoder.encode(example.text, retriever.ground(example.text, 4, list(example.entities)).evidence)
        assert pair.used  # the mood of the town was read
        row = np.array([pair.ids]), np.ones((1, len(pair.ids)), dtype=np.int64), np.array([pair.type_ids])
        probabilities.append(session.run(["probabilities"], dict(zip(INPUTS, row, strict=True)))[0][0])
    retriever.close()
    p = np.array(probabilities, dtype=np.float64)
    y = np.array([list(built.manifest.labels).index(e.label) for e in test])
    served = built.certificate.stages[-1]
    assert served.clean_accuracy.examples == len(test)
    assert metrics.accuracy(p, y) == pytest.approx(served.clean_accuracy.value, abs=0.02)
    assert metrics.brier(p, y) == pytest.approx(served.brier, abs=0.02)


def test_building_again_from_the_same_inputs_does_nothing(built: Bundle, recipe: Recipe, capsys):
    before = (built.path / "manifest.json").stat().st_mtime_ns
    assert build_bundle(recipe, built.path).manifest == built.manifest
    assert (built.path / "manifest.json").stat().st_mtime_ns == before


def test_an_interrupted_build_reuses_the_training(built: Bundle, project: Path, recipe: Recipe, tmp_path: Path):
    shutil.copytree(project / "bundle.work", tmp_path / "again.work")
    weights = tmp_path / "again.work" / "trained.safetensors"
    stamp = weights.stat().st_mtime_ns
    again = build_bundle(recipe, tmp_path / "again", keep_work=True)
    assert weights.stat().st_mtime_ns == stamp
    assert again.manifest.version == built.manifest.version


def test_work_of_another_recipe_is_not_reused(built: Bundle, project: Path, recipe: Recipe, tmp_path: Path):
    shutil.copytree(project / "bundle.work", tmp_path / "other.work")
    train = dataclasses.replace(recipe.train, epochs=1, learning_rate=1e-5, head_learning_rate=1e-5)
    other = dataclasses.replace(
        recipe, train=train, text="other", gates=dataclasses.replace(recipe.gates, weights_accuracy_loss=1.0)
    )
    bundle = build_bundle(other, tmp_path / "other")
    assert bundle.manifest.version != built.manifest.version
    assert bundle.certificate.stages[0].clean_accuracy.value < 0.9
    assert not (tmp_path / "other.work").exists()


@pytest.mark.parametrize("weights", ["float16", "float32"])
def test_a_bundle_for_other_devices_is_made_from_the_same_training(
    built: Bundle, project: Path, recipe: Recipe, tmp_path: Path, weights: str
):
    shutil.copytree(project / "bundle.work", tmp_path / "other.work")
    trained = tmp_path / "other.work" / "trained.safetensors"
    stamp = trained.stat().st_mtime_ns
    other = dataclasses.replace(recipe, encoder=dataclasses.replace(recipe.encoder, weights=weights), text=weights)
    bundle = build_bundle(other, tmp_path / "other", keep_work=True)
    assert trained.stat().st_mtime_ns == stamp
    names = [stage.name for stage in bundle.certificate.stages]
    assert names == (
        ["trained", "onnx-float32"] if weights == "float32" else ["trained", "onnx-float32", "onnx-float16"]
    )
    assert bundle.manifest.encoder.weights == weights
    assert bundle.manifest.calibration.fitted_on == bundle.certificate.stages[-1].artifact
    kinds = {tensor.data_type for tensor in onnx.load_model_from_string(bundle.model).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in kinds) == (weights == "float16")
    work = tmp_path / "other.work"
    exact, served = (onnx_graph.session(work / f"{name}.onnx").run(None, feeds()) for name in ("float32", weights))
    assert all(one.dtype == np.float32 for one in served)
    assert np.allclose(exact[0], served[0], atol=0.02)
    batch = collate([Row([2, 9, 11, 3, 12, 3], [0, 0, 0, 0, 1, 1], 0, 0)], 0)
    model = TextClassifier(load_encoder(str(project / "encoder")), 3, 3)
    model.load_state_dict(load_file(trained))
    with torch.no_grad():
        point = TextTask(model.eval()).point(batch)
    artifact = OnnxArtifact("x", work / f"{weights}.onnx")
    assert np.allclose(artifact.run(batch)[0], artifact.run_point(point, batch), atol=5e-3)
    rounded = [np.array_equal(one, one.astype(np.float16)) for one in served]
    assert not any(rounded)  # heads and pooling end in FP32


def test_answers_of_the_quantized_model_do_not_hang_on_company(built: Bundle):
    assert not [node for node in onnx.load_from_string(built.model).graph.node if node.op_type.startswith("Dynamic")]
    session, together = onnx_graph.session(built.model), feeds(rows=12)
    whole = session.run(list(OUTPUTS), together)
    for row in range(12):
        alone = session.run(list(OUTPUTS), {name: array[row : row + 1] for name, array in together.items()})
        for name, expected, found in zip(OUTPUTS, whole, alone, strict=True):
            np.testing.assert_allclose(found[0], expected[row], rtol=1e-4, atol=1e-5, err_msg=name)


def test_integer_products_fit_into_16_bits_on_any_processor(built: Bundle):
    graph = onnx.load_from_string(built.model).graph
    tables = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = [tables[name] for name in tables if tables[name].dtype == np.int8 and tables[name].ndim == 2]
    assert len(weights) >= 6
    assert max(int(np.abs(table.astype(np.int16)).max()) for table in weights) == 64
    assert 2 * 255 * 64 < 2**15


def test_an_encoder_is_known_by_its_files(tmp_path: Path):
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
    before = encoder_hash(str(tmp_path))
    (tmp_path / "README.md").write_text("other")
    assert encoder_hash(str(tmp_path)) == before
    (tmp_path / "model.safetensors").write_text("other")
    assert encoder_hash(str(tmp_path)) != before


def test_work_of_other_changed_rows_is_not_gone_on_with(project: Path, recipe: Recipe, tmp_path: Path):
    with open_recipe_graph(recipe) as retriever:
        prepared = prepare(recipe, retriever)
    work = tmp_path / "work"
    open_work(work, recipe, prepared)
    (work / "checkpoint.pt").write_text("half done")
    open_work(work, recipe, prepared)
    assert (work / "checkpoint.pt").exists()
    other = dataclasses.replace(prepared, changed=[{0: Row([1, 2], [0, 0], 0, 0)}])
    open_work(work, recipe, other)
    assert not (work / "checkpoint.pt").exists()


def test_places_are_spread_over_all():
    assert spread(10, 3) == [0, 3, 6]
    assert spread(3, 10) == [0, 1, 2]
    assert all(len(spread(count, most)) == min(count, most) for count in range(30) for most in range(1, 30))


def test_an_entity_never_stands_on_both_sides_of_a_split(project: Path):
    examples = read_examples(project / "train.jsonl")
    first, second = split_by_entity(examples, 0.3, seed=1)
    assert {e.entities for e in first}.isdisjoint({e.entities for e in second})
    assert len(first) + len(second) == len(examples)
    assert 0.25 < len(second) / len(examples) < 0.4


def test_examples_that_are_connected_over_others_stay_together():
    pairs = [("a", "b"), ("b", "c"), ("c", "d"), ("e",), ("f", "e"), ("g",), ("h",), ()]
    examples = [Example(str(n), "text", "label", entities) for n, entities in enumerate(pairs * 3)]
    for seed in range(20):
        first, second = split_by_entity(examples, 0.4, seed)
        sides = [{entity for example in side for entity in example.entities} for side in (first, second)]
        assert sides[0].isdisjoint(sides[1])
        assert len(first) + len(second) == len(examples)


def test_batches_repeat_for_the_same_epoch_and_hold_every_row_once():
    rows = [Row(list(range(4 + n % 7)), [0] * (4 + n % 7), n % 3, n) for n in range(50)]
    bare = {row.index: Row([1], [0], row.label, row.index) for row in rows[::2]}
    batches = TextBatches(rows, 8, 0, seed=1, changed=[bare, {}].__getitem__)
    epochs = [list(batches.epoch(e)) for e in (0, 0, 1)]
    assert sorted(i for b in epochs[0] for i in b.index.tolist()) == list(range(50))
    assert all(torch.equal(a.ids, b.ids) for a, b in zip(epochs[0], epochs[1], strict=True))
    assert [b.index.tolist() for b in epochs[0]] != [b.index.tolist() for b in epochs[2]]
    assert len(epochs[0]) == len(batches)
    dropped = [sum(int(n == 1) for b in epoch for n in b.mask.sum(dim=1).tolist()) for epoch in epochs]
    assert dropped == [25, 25, 0]
    lengths = [len(rows[i].ids) for b in ordered_batches(rows, 8, 0) for i in b.index.tolist()]
    assert lengths == sorted(lengths, reverse=True)


def test_the_bundle_makes_the_rows_that_its_model_was_trained_on(recipe: Recipe, tmp_path: Path):
    """Texts put right: byte for byte the same rows from the recipe's data and from the opened bundle."""
    from groundwire.export.prepare import open_recipe_graph, prepare

    encoder = dataclasses.replace(recipe.encoder, normalise="spell")
    certify = dataclasses.replace(recipe.certify, examples=8)
    righting = dataclasses.replace(recipe, encoder=encoder, certify=certify)
    bundle = build_bundle(righting, tmp_path / "righting")
    assert bundle.manifest.inputs.text_normalisation == bundle_pb2.TEXT_NORMALISATION_SPELL
    served = open_bundle(bundle.path).encoder()
    with open_recipe_graph(righting) as retriever:
        prepared = prepare(righting, retriever)
        assert bundle.words == prepared.words
        for example, row in zip(read_examples(righting.path(righting.data.train)), prepared.train, strict=True):
            named = list(example.entities) if righting.graph.train_entities == "gold" else None
            evidence = retriever.ground(example.text, righting.graph.top_k, named).evidence
            pair = served.encode(example.text, evidence)
            assert (pair.ids, pair.type_ids) == (row.ids, row.type_ids)
