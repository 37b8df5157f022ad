"""Measure how often evidence holds the row that decides a claim of InfoTabS dev: benchmarks/results/kg_evidence.json.

    GROUNDWIRE_DATA=DIR python benchmarks/audit_evidence.py

100 claims that are supported or contradicted are drawn with a fixed seed, from the data alone (a neutral claim has no
row that decides it). For each, one reader went through the claim, its label and all rows of its infobox, and wrote the
rows that a reader needs to tell the label into `evidence_audit.json`, before any evidence was looked at. The rules:

- A claim has alternatives; each is a set of needs that decide it together. A supported claim needs a row for each thing
  that it asserts, a contradicted one needs what refutes it. That the entity is the one meant, and of its kind (a film,
  a musician, a racehorse), is taken for granted.
- A row may have many values, each of them a triple. A need is met when the evidence holds `least` of the need's
  `values`: all of them where `least` is not given, those of the whole row where `values` are not. So a claim that
  counts the values of a row, or denies one, needs all of them; one that any value decides needs one.
- A claim without alternatives is decided by no row: its title decides it, or a guess. It counts for nothing.
- `label_doubted` marks claims whose rows say otherwise than the label. The row counts all the same.

`decided` asks for all needs of an alternative; `rows` for one triple, any, of each row of an alternative. Only triples
of the claim's own entity count, so with linked entities another infobox of the same title is a miss (`missed_twin`).
`whole_infobox_fits` counts claims that cannot miss with the gold entity, whatever the ranking. Intervals are Wilson's,
95 %, and cover the drawing of the claims, not the reader's errors.
"""

import argparse
import json
import os
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from groundwire.export.machine import hardware
from groundwire.kg import CompiledRetriever, Evidence, compile_graph
from groundwire.kg.text import key_of
from groundwire.metrics import wilson

RESULTS = Path(__file__).parent / "results" / "kg_evidence.json"
AUDIT = Path(__file__).parent / "evidence_audit.json"
DATA = Path(os.environ.get("GROUNDWIRE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SEED = 20261122
CLAIMS = 100
TOP_K = (8, 16)
ALL = 10_000

Need = dict[str, Any]
Rows = dict[str, set[str]]


def sample() -> list[dict[str, Any]]:
    """The claims of the audit, in order of their identifiers."""
    lines = (DATA / "infotabs" / "dev.jsonl").read_text(encoding="utf-8").splitlines()
    claims = {claim["id"]: claim for claim in map(json.loads, lines)}
    decided = sorted(name for name, claim in claims.items() if claim["label"] in {"supported", "contradicted"})
    return [claims[name] for name in sorted(random.Random(SEED).sample(decided, CLAIMS))]


def rows_of(evidence: Iterable[Evidence], entity: str) -> Rows:
    """The values that the evidence gives the entity, by predicate."""
    rows: Rows = defaultdict(set)
    for triple in evidence:
        if triple.subject.value == entity:
            rows[triple.predicate.value].add(triple.object.value)
    return rows


class Audited:
    """A claim of the sample with what decides it."""

    def __init__(self, claim: dict[str, Any], audit: dict[str, Any], retriever: CompiledRetriever) -> None:
        entry = audit["claims"][claim["id"]]
        self.name, self.text, self.base = claim["id"], claim["text"], audit["rows"]
        self.entity = audit["entities"] + entry["entity"]
        node = retriever.index.find(self.entity)
        assert node is not None, f"{self.entity} is not in the graph"
        self.title = key_of(retriever.index.label(node))
        self.doubted = bool(entry.get("label_doubted"))
        self.alternatives: list[list[Need]] = entry["alternatives"]
        self.infobox = rows_of(retriever.retrieve(claim["text"], [self.entity], ALL), self.entity)
        assert claim["entities"] == [self.entity], f"{self.name} is about another entity"
        for need in (need for needs in self.alternatives for need in needs):
            values = self.values(need)
            known = values <= self.infobox[self.row(need)]
            assert known and len(values) >= self.least(need) > 0, f"{self.name}: {need} is not in the graph"

    def row(self, need: Need) -> str:
        return f"{self.base}{need['row']}"

    def values(self, need: Need) -> set[str]:
        return set(need.get("values", self.infobox[self.row(need)]))

    def least(self, need: Need) -> int:
        return int(need.get("least", len(self.values(need))))

    def smallest(self) -> int:
        """How many triples decide the claim, at least."""
        return min(sum(map(self.least, needs)) for needs in self.alternatives)

    def decided(self, rows: Rows) -> bool:
        return any(
            all(len(rows[self.row(need)] & self.values(need)) >= self.least(need) for need in needs)
            for needs in self.alternatives
        )

    def has_rows(self, rows: Rows) -> bool:
        return any(all(rows[self.row(need)] for need in needs) for needs in self.alternatives)


def share(names: Sequence[str], claims: int) -> dict[str, Any]:
    low, high = wilson(len(names), claims)
    return {"hits": len(names), "share": round(len(names) / claims, 4), "wilson_95": [round(low, 4), round(high, 4)]}


def measure(retriever: CompiledRetriever, claims: Sequence[Audited], top_k: int, linked: bool) -> dict[str, Any]:
    """The shares at `top_k` triples, with gold or with linked entities, and the claims that were missed."""
    decided: list[str] = []
    with_rows: list[str] = []
    not_linked: list[str] = []
    twins: list[str] = []
    for claim in claims:
        grounding = retriever.ground(claim.text, top_k, None if linked else [claim.entity])
        rows = rows_of(grounding.evidence, claim.entity)
        if claim.decided(rows):
            decided.append(claim.name)
        if claim.has_rows(rows):
            with_rows.append(claim.name)
        if linked and all(mention.entity != claim.entity for mention in grounding.mentions):
            twin = any(key_of(mention.label) == claim.title for mention in grounding.mentions)
            (twins if twin else not_linked).append(claim.name)
    missed = [claim.name for claim in claims if claim.name not in decided]
    result: dict[str, Any] = {
        "decided": share(decided, len(claims)),
        "rows": share(with_rows, len(claims)),
        "missed": missed,
    }
    if linked:
        result["missed_twin"] = [name for name in missed if name in twins]
        result["missed_not_linked"] = [name for name in missed if name in not_linked]
    result["missed_needs_more_triples"] = [c.name for c in claims if c.name in missed and c.smallest() > top_k]
    result["whole_infobox_fits"] = sum(sum(map(len, claim.infobox.values())) <= top_k for claim in claims)
    return result


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    audit = json.loads(AUDIT.read_text(encoding="utf-8"))
    drawn = sample()
    assert [claim["id"] for claim in drawn] == sorted(audit["claims"]), "the audit is of another sample"
    with tempfile.TemporaryDirectory() as folder:
        retriever = CompiledRetriever(compile_graph(DATA / "infotabs" / "graph.nq.gz", Path(folder) / "infotabs"))
        every = [Audited(claim, audit, retriever) for claim in drawn]
        claims = [claim for claim in every if claim.alternatives]
        results: dict[str, Any] = {
            "command": "python benchmarks/audit_evidence.py",
            "hardware": hardware(),
            "split": "dev",
            "sampled": len(every),
            "no_row_decides": [claim.name for claim in every if not claim.alternatives],
            "claims": len(claims),
            "label_doubted": [claim.name for claim in claims if claim.doubted],
            "triples_of_entity_mean": round(sum(sum(map(len, c.infobox.values())) for c in claims) / len(claims), 1),
        }
        for top_k in TOP_K:
            results[f"top_{top_k}"] = {
                "gold_entities": measure(retriever, claims, top_k, linked=False),
                "linked_entities": measure(retriever, claims, top_k, linked=True),
            }
        retriever.close()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
