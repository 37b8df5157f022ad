"""The robustness report of a build: the same attacks on every stage's own artifact, beside the certificate.

White-box attacks and masking checks need gradients, so they are of the trained model; black-box attacks run against
each artifact, from the trained model to the graph that is served.
"""

from collections.abc import Sequence
from pathlib import Path

from groundwire.export.artifact import Artifact, TorchArtifact
from groundwire.export.attack_report import (
    Attacked,
    attack_embeddings,
    attack_served_evidence,
    attack_served_text,
    vocabulary,
)
from groundwire.export.attacks import Threat
from groundwire.export.attacks.text.greedy import Budget
from groundwire.export.attacks.text.targets import Grounded, artifact_run
from groundwire.export.machine import hardware
from groundwire.export.model import TextTask
from groundwire.export.prepare import Prepared, open_recipe_graph
from groundwire.export.robustness import Report, write_report
from groundwire.export.settings import Recipe


def report_stages(
    recipe: Recipe, prepared: Prepared, artifacts: Sequence[Artifact], temperatures: Sequence[float], folder: Path
) -> list[Report]:
    """Attack `certify.report` test examples, and write `robustness.json` and `robustness.html` to the folder.

    Args:
        recipe: of the build.
        prepared: its data.
        artifacts: all stages, the trained model first.
        temperatures: of each.
        folder: where the report goes.
    """
    settings, reports = recipe.certify, []
    test = prepared.test_examples
    attacked = Attacked.of(test, prepared.labels, settings.report, recipe.seed)
    rows = [prepared.test[place] for place in attacked.places]
    trained = artifacts[0]
    assert isinstance(trained, TorchArtifact)
    known = vocabulary(prepared.tokenizer)
    threat = Threat(settings.epsilons[0], settings.norm, settings.steps)
    reports.append(
        attack_embeddings(f"{trained.name}: embeddings", TextTask(trained.model), rows, prepared.encoder.pad_id, threat)
    )
    entities = [example.entities for example in attacked.examples] if recipe.graph.test_entities == "gold" else None
    with open_recipe_graph(recipe) as retriever:
        for artifact, temperature in zip(artifacts, temperatures, strict=True):
            model = Grounded(
                artifact_run(artifact, temperature), prepared.encoder, retriever, recipe.graph.top_k, entities
            )
            reports.append(
                attack_served_text(
                    f"{artifact.name}: text", model.texts_for, attacked, retriever, Budget(), known=known
                )[0]
            )
            if retriever is not None and recipe.graph.top_k:
                reports.append(attack_served_evidence(f"{artifact.name}: evidence", model, attacked)[0])
    provenance = {
        "recipe": recipe.name, "seed": recipe.seed, "hardware": hardware(), "examples": len(attacked.examples),
        "entities": recipe.graph.test_entities,
    }  # fmt: skip
    write_report(reports, folder, f"Robustness of {recipe.name}", provenance)
    return reports
