"""InfoTabS: the same model trained normally and hardened, under every attack: benchmarks/results/robustness.json.

    python benchmarks/bench_robustness.py [--work DIR] [--train N] [--attacked N] [--embedding N] [--checked N]
    python benchmarks/bench_robustness.py --only normal|hardened|cost    # and keep the other figures

Both models start from the same encoder and see the same N training claims, the first ones, the normal one for two
epochs, without any of what follows. The hardened one gets a third, is trained with FGSM on its word embeddings (one
step, half of the loss) from the second on, and sees misspelt and reworded claims, false triples among the evidence, and
claims without evidence that are labelled as undecided. Its texts are put right before the tokenizer (`normalise =
"spell"`). Measured on dev, which neither has seen, always on the whole served model, normalisation and all:

- clean accuracy of the INT8 bundles on all claims;
- the worst case over attacks on characters and words: 15 % of the words (one at least), 200 queries an attack; the same
  with four times the spellings and three times the queries, on fewer claims;
- both for the normal model with normalisation put before it, which says what that does alone;
- PGD-10 on embeddings, at growing radii, on the trained models: with their own gradients;
- one false triple put before the true ones, or in the place of one, or one dropped: the worst of 16;
- all evidence deleted: how often the label is then "not_enough_info", and how often the server would abstain;
- what hardening costs: time of training and of making its rows, both ways by turns on few claims.

Entities are those of the data. Bundles in the work folder are used again when they came from the same inputs.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from groundwire import conformal
from groundwire.bundle import Bundle
from groundwire.export.artifact import TorchArtifact
from groundwire.export.attack_report import (
    Attacked,
    attack_embeddings,
    attack_served_evidence,
    attack_served_text,
    vocabulary,
)
from groundwire.export.attacks import Threat
from groundwire.export.attacks.text.characters import CHARACTER_EDITS, MOST_SPELLINGS
from groundwire.export.attacks.text.greedy import Budget
from groundwire.export.attacks.text.meaning import words_of
from groundwire.export.attacks.text.targets import Grounded, bundle_run
from groundwire.export.certify import attack_rows, attacked_labels
from groundwire.export.data import Example, read_examples
from groundwire.export.machine import hardware
from groundwire.export.model import TextClassifier, TextTask, load_encoder
from groundwire.export.prepare import prepare
from groundwire.export.recipe import build_bundle
from groundwire.export.robustness import Report, Share, write_report
from groundwire.export.rows import encode_examples
from groundwire.export.settings import AdversarySettings, AugmentSettings, CertifySettings, Recipe, read_recipe
from groundwire.export.train_stage import open_accelerator, open_work, train
from groundwire.kg import Retriever, compile_graph, open_graph
from groundwire.kg.encode import PairEncoder
from groundwire.kg.known_words import KnownWords
from groundwire.kg.normalise import Normaliser

HERE = Path(__file__).parent
RADII = (0.002, 0.0024, 0.0027)  # at the second the normal model falls under 20 %

NEUTRAL = "not_enough_info"


def recipes(train: int) -> dict[str, Recipe]:
    """The two recipes, which differ in the hardening alone."""
    base = read_recipe(HERE / "infotabs.toml")
    # Ten triples and 72 tokens: half the passes' cost, and nine claims in ten still have the row that decides them.
    base = replace(base, graph=replace(base.graph, top_k=10), encoder=replace(base.encoder, max_tokens=72))
    certify = CertifySettings(epsilons=(0.002,), steps=5, examples=48)
    data = replace(base.data, train_limit=train)
    plain = replace(base.train, adversary=AdversarySettings())
    hard = replace(
        base.train,
        epochs=3,
        adversary=AdversarySettings(epsilon=0.003, steps=1, weight=0.5, first_epoch=1),
        evidence_dropout=0.05,
        augment=AugmentSettings(edit=0.6, poison=0.3, unknown=0.1, neutral_label=NEUTRAL),
    )
    return {
        name: replace(base, name=f"infotabs-{name}", data=data, train=settings, certify=certify,
                      encoder=replace(base.encoder, normalise=normalise),
                      text=f"# infotabs.toml, {name}\ntrain = {asdict(settings)}\ntrain_limit = {train}\n"
                           f"normalise = {normalise}\n")
        for name, settings, normalise in (("normal", plain, "none"), ("hardened", hard, "spell"))
    }  # fmt: skip


def grounded(
    bundle: Bundle, retriever: Retriever, examples: Sequence[Example], encoder: PairEncoder | None = None
) -> Grounded:
    """The INT8 bundle with the graph and the data's entities."""
    entities = [example.entities for example in examples]
    return Grounded(bundle_run(bundle), encoder or bundle.encoder(), retriever, bundle.manifest.inputs.top_k, entities)


def put_right(recipe: Recipe, bundle: Bundle) -> PairEncoder:
    """The encoder of a bundle that was trained without normalisation, with it: what normalisation does alone."""
    texts = [example.text for example in read_examples(recipe.path(recipe.data.train))[: recipe.data.train_limit]]
    plain = bundle.encoder()
    words = KnownWords.of(texts, plain.tokenizer.get_vocab(with_added_tokens=False))
    return PairEncoder(bundle.tokenizer, bundle.manifest.inputs.max_tokens, Normaliser(words))


def clean_and_bare(
    bundle: Bundle, retriever: Retriever, dev: Sequence[Example], encoder: PairEncoder | None = None
) -> dict[str, Any]:
    """Accuracy on all of dev, and what becomes of the answers when all evidence is deleted."""
    model = grounded(bundle, retriever, dev, encoder)
    labels = list(bundle.manifest.labels)
    truth = np.array([labels.index(example.label) for example in dev])
    texts = [example.text for example in dev]
    with_evidence = model.texts_for(texts, range(len(texts)))
    without = model.pairs([(text, ()) for text in texts])
    quantiles = next(q for q in bundle.manifest.conformal if q.method == bundle.manifest.policy.method)
    report: dict[str, Any] = {}
    for name, probabilities in (("clean", with_evidence), ("evidence_deleted", without)):
        sets = conformal.prediction_sets(probabilities, quantiles, bundle.manifest.policy.coverage)
        report[name] = {
            "accuracy": asdict(Share.of(probabilities.argmax(axis=1) == truth)),
            "neutral": float((probabilities.argmax(axis=1) == labels.index(NEUTRAL)).mean()),
            "sets_of_other_than_one_label": float((sets.sum(axis=1) != 1).mean()),
        }
    return report


def under_pgd(
    recipe: Recipe, bundle: Bundle, work: Path, retriever: Retriever, dev: Sequence[Example], checked: int
) -> tuple[dict[str, Any], Report]:
    """Accuracy of the trained model under PGD-10 by radius, and the masking checks."""
    model = TextClassifier(load_encoder(recipe.encoder_name), len(bundle.manifest.labels), recipe.encoder.heads)
    model.load_state_dict(load_file(work / "trained.safetensors"))
    trained, task = TorchArtifact("trained", model, work / "trained.safetensors"), TextTask(model)
    encoder = bundle.encoder()
    rows = encode_examples(
        dev, list(bundle.manifest.labels), encoder, retriever, top_k=recipe.graph.top_k, entities="gold"
    )
    truth = np.array([row.label for row in rows])
    by_radius = {}
    for epsilon in RADII:
        attacked = attack_rows(task, rows, Threat(epsilon, "linf", 10), encoder.pad_id, title=f"PGD-10, ε = {epsilon}")
        labels = attacked_labels(trained, attacked, rows, bundle.manifest.calibration.temperature)
        by_radius[f"{epsilon:g}"] = asdict(Share.of(labels == truth))
    return by_radius, attack_embeddings(
        f"{recipe.name}, embeddings", task, rows[:checked], encoder.pad_id, Threat(0.002, "linf", 10)
    )


def cost(made: dict[str, Recipe], work: Path, retriever: Retriever, claims: int, rounds: int = 3) -> dict[str, Any]:
    """Seconds of both trainings on few claims, in turns: preparing, which makes the changed rows, and fitting."""
    seconds: dict[str, list[float]] = {name: [] for name in made}
    test = work / "few.jsonl"  # what is not trained on costs both the same, and hides what hardening costs
    lines = made["normal"].path(made["normal"].data.test).read_text(encoding="utf-8").splitlines(keepends=True)
    test.write_text("".join(lines[:60]), encoding="utf-8")
    for number in range(rounds):
        for name, recipe in made.items():
            small = replace(recipe, data=replace(recipe.data, train_limit=claims, test=str(test.resolve())))
            accelerator = open_accelerator(small)
            folder = work / f"cost-{name}-{number}"
            started = time.perf_counter()
            prepared = prepare(small, retriever)
            open_work(folder, small, prepared)
            train(small, prepared, folder, accelerator)
            seconds[name].append(round(time.perf_counter() - started, 1))
            shutil.rmtree(folder)
    ratios = [hard / plain for plain, hard in zip(seconds["normal"], seconds["hardened"], strict=True)]
    return {"claims": claims, "seconds": seconds, "hardened_over_normal": round(statistics.median(ratios), 2)}


def under_text_attack(
    name: str,
    model: Grounded,
    attacked: Attacked,
    retriever: Retriever,
    budget: Budget,
    known: Collection[str],
    most: int = MOST_SPELLINGS,
) -> tuple[Report, dict[str, Any], list[dict[str, Any]]]:
    """The report, the figures, and the texts that changed a label."""
    report, found = attack_served_text(name, model.texts_for, attacked, retriever, budget, most=most, known=known)
    figures = {
        "claims": len(attacked.examples),
        "queries": budget.queries,
        "spellings_a_word": most,
        "attacks": {kind: asdict(share) for kind, share in report.attacks.items()},
        "worst_case": asdict(report.worst_case),
        "flipped": {kind: sum(r.attacked != r.clean for r in results) for kind, results in found.items()},
        "flipped_by": dict(
            Counter(edit_kind(r.original, r.text) for r in found["characters"] if r.attacked != r.clean).most_common()
        ),
    }
    texts = [{"attack": kind, **asdict(r)} for kind, results in found.items() for r in results if r.attacked != r.clean]
    return report, figures, texts


def edit_kind(before: str, after: str) -> str:
    """Which edit of `CHARACTER_EDITS` made a text of another; "several" when more than one word differs."""
    spans = words_of(before)
    for start, end in spans:
        head, tail = before[:start], before[end:]
        if after.startswith(head) and after.endswith(tail) and len(after) > len(head) + len(tail):
            written = after[len(head) : len(after) - len(tail)]
            for kind, edit in CHARACTER_EDITS.items():
                if written in edit(before[start:end]):
                    return kind
    return "several"


def measure(
    name: str, recipe: Recipe, arguments: argparse.Namespace, retriever: Retriever, dev: Sequence[Example]
) -> dict[str, Any]:
    """Build a model's bundle and measure it under every attack."""
    out = arguments.work / name
    bundle = build_bundle(recipe, out, keep_work=True)
    work = out.with_name(f"{name}.work")
    attacked = Attacked.of(dev, bundle.manifest.labels, arguments.attacked)
    model = grounded(bundle, retriever, attacked.examples)
    budget, patient = Budget(0.15, arguments.queries), Budget(0.15, 3 * arguments.queries)
    known = vocabulary(bundle.tokenizer)
    text, figures, texts = under_text_attack(name, model, attacked, retriever, budget, known)
    # The texts go beside the bundle, for people to read: they are not ours to publish.
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in texts]
    (arguments.work / f"{name}-texts.jsonl").write_text("".join(lines), encoding="utf-8")
    few = Attacked.of(dev, bundle.manifest.labels, arguments.patient)
    few_model = grounded(bundle, retriever, few.examples)
    stronger = under_text_attack(f"{name}, patient", few_model, few, retriever, patient, known, 4 * MOST_SPELLINGS)[1]
    measured = {
        "training": json.loads((work / "history.json").read_text()),
        **clean_and_bare(bundle, retriever, dev),
        "text": figures,
        "text_patient": stronger,
    }
    reports = [text]
    if not bundle.manifest.inputs.text_normalisation:
        encoder = put_right(recipe, bundle)
        righted = grounded(bundle, retriever, attacked.examples, encoder)
        measured["normalisation_alone"] = {
            **clean_and_bare(bundle, retriever, dev, encoder),
            "text": under_text_attack(f"{name}, put right", righted, attacked, retriever, budget, known)[1],
        }
    evidence, _ = attack_served_evidence(f"{name}, evidence", model, attacked)
    measured["evidence"] = {kind: asdict(share) for kind, share in evidence.attacks.items()}
    sample = Attacked.of(dev, bundle.manifest.labels, arguments.embedding).examples
    pgd, embeddings = under_pgd(recipe, bundle, work, retriever, sample, arguments.checked)
    measured |= {"pgd_10": pgd, "masking_checks": {check.name: check.passed for check in embeddings.checks}}
    reports += [evidence, embeddings]
    write_report(reports, arguments.work / f"{name}-report", f"InfoTabS: {name}", {"training claims": arguments.train})
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("out/robustness"))
    parser.add_argument("--train", type=int, default=16538, help="training claims; all there are, unless given")
    parser.add_argument("--attacked", type=int, default=500, help="dev claims under black-box attack")
    parser.add_argument("--patient", type=int, default=150, help="dev claims under the attack that tries four times as "
                        "many spellings with three times the queries")  # fmt: skip
    parser.add_argument("--embedding", type=int, default=300, help="dev claims under PGD")
    parser.add_argument("--checked", type=int, default=12, help="claims of the masking checks: hundreds of passes each")
    parser.add_argument("--queries", type=int, default=200, help="most queries a claim and attack")
    parser.add_argument("--only", choices=("normal", "hardened", "cost"), help="measure that again, and nothing else")
    parser.add_argument("--cost-claims", type=int, default=256)
    arguments = parser.parse_args()
    results = HERE / "results" / "robustness.json"
    made = recipes(arguments.train)
    first = made["normal"]
    arguments.work.mkdir(parents=True, exist_ok=True)
    dev = read_examples(first.path(first.data.test))
    figures: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]), "hardware": hardware(), "seed": first.seed,
        "training claims": arguments.train, "attacked claims": arguments.attacked, "queries": arguments.queries,
        "claims under PGD": arguments.embedding, "claims checked for masking": arguments.checked,
        "dev claims": len(dev), "models": {},
    }  # fmt: skip
    compile_graph([first.path(source) for source in first.graph.sources], arguments.work / "graph")
    with closing(open_graph(arguments.work / "graph")) as retriever:
        for name, recipe in made.items():
            if arguments.only in {None, name}:
                figures["models"][name] = measure(name, recipe, arguments, retriever, dev)
        if arguments.only in {None, "cost"}:
            figures["cost"] = cost(made, arguments.work, retriever, arguments.cost_claims)
    if arguments.only:  # read late: the two models may be measured side by side, in work folders of their own
        kept = json.loads(results.read_text(encoding="utf-8"))
        figures = kept | figures | {"models": kept["models"] | figures["models"]}
    write(results, figures)


def write(path: Path, figures: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
