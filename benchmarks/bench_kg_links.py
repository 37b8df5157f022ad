"""Measure how right the links are, on the dev splits of InfoTabS and ATT&CK: benchmarks/results/kg_links.json.

    GROUNDWIRE_DATA=DIR python benchmarks/bench_kg_links.py

What is counted:

- **InfoTabS** names one entity a claim, by its title; titles are not unique. A claim is right when some mention has the
  title as its label; every mention of another title counts as wrong, though the claim may well name that entity too.
- **One or two slips**: one word of the claim's mention of the title is misspelt (two slips: in two places
  of a word of 8 letters or more). Claims that hold no such word of the title, of 4 letters for one slip, are left out.
- **ATT&CK**: mentions of software and groups. A gold mention is found when a mention of the same entity overlaps it; a
  mention of ours that overlaps no gold mention of its entity is wrong. What annotators linked to identifiers of their
  own instead (`#node`: things that ATT&CK does not know) counts as neither, and is reported. Annotators left names out:
  read by hand, 19 of the 22 wrong links on dev name just that entity, and so do 47 of 60 drawn from train.
- **Calibration**: mentions in ten bins of equal width by their score; the expected calibration error (Guo et al. 2017)
  is the mean distance of score and share of right ones. Right is the entity, not just its title. On InfoTabS a mention
  written just like another title may be right too, so it is left out.
"""

import argparse
import json
import os
import random
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

from fit_kg_scores import misspell

from groundwire.export.machine import hardware
from groundwire.kg import CompiledRetriever, Mention, compile_graph
from groundwire.kg.text import key_of, split

RESULTS = Path(__file__).parent / "results" / "kg_links.json"
DATA = Path(os.environ.get("GROUNDWIRE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
BINS = 10
KINDS = ("/software/", "/groups/")


class Judged(NamedTuple):
    """A mention's score, whether it is right, and the score of all its candidates together."""

    score: float
    right: bool
    name: float


def judge(mention: Mention, right: bool) -> Judged:
    return Judged(mention.score, right, sum(candidate.score for candidate in mention.candidates))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def reliability(judged: Sequence[Judged]) -> dict[str, Any]:
    """The reliability table and the expected calibration error over ten bins of equal width."""
    table = []
    error = 0.0
    for number in range(BINS):
        some = [one for one in judged if min(BINS - 1, int(one.score * BINS)) == number]
        if some:
            score = sum(one.score for one in some) / len(some)
            right = sum(one.right for one in some) / len(some)
            error += len(some) / len(judged) * abs(score - right)
            table.append(
                {"from": number / BINS, "mentions": len(some), "score": round(score, 3), "right": round(right, 3)}
            )
    return {"mentions": len(judged), "ece": round(error, 4), "bins": table}


class Claims:
    """The claims of an InfoTabS split with the folded title of each one's entity."""

    def __init__(self, retriever: CompiledRetriever, name: str) -> None:
        self.retriever = retriever
        self.texts: list[str] = []
        self.titles: list[str] = []
        self.entities: list[str] = []
        for claim in read_lines(DATA / "infotabs" / f"{name}.jsonl"):
            entity = claim["entities"][0]
            node = retriever.index.find(entity)
            assert node is not None, f"{entity} is not in the graph"
            self.texts.append(claim["text"])
            self.titles.append(key_of(retriever.index.label(node)))
            self.entities.append(entity)

    def measure(self, texts: Sequence[str | None] | None = None) -> tuple[dict[str, Any], list[Judged]]:
        """Right and wrong links over the claims, or over `texts` in their place (None: left out)."""
        right = exact = wrong = claims = 0
        judged: list[Judged] = []
        for text, title, entity in zip(texts or self.texts, self.titles, self.entities, strict=True):
            if text is None:
                continue
            claims += 1
            mentions = self.retriever.link(text)
            labels = [key_of(mention.label) for mention in mentions]
            right += title in labels
            exact += any(mention.entity == entity for mention in mentions)
            wrong += sum(label != title for label in labels)
            judged += [
                judge(mention, mention.entity == entity)
                for mention, label in zip(mentions, labels, strict=True)
                if label == title or key_of(mention.text) != label
            ]
        return {
            "claims": claims,
            "right_title": round(right / claims, 4),
            "right_entity": round(exact / claims, 4),
            "wrong_links_per_claim": round(wrong / claims, 3),
        }, judged

    def misspelt(self, slips: int) -> list[str | None]:
        """Each claim with `slips` slips in one word of its longest mention of a run of the title's words."""
        rng = random.Random(5)
        return [_misspelt(text, title, slips, rng) for text, title in zip(self.texts, self.titles, strict=True)]


def _misspelt(text: str, title: str, slips: int, rng: random.Random) -> str | None:
    shortest = 3 if slips == 1 else 7
    words = split(text)
    best: tuple[int, int] | None = None
    count = len(words.words)
    for first in range(count):
        for last in range(first + 1, min(count, first + title.count(" ") + 1) + 1):
            run = words.words[first:last]
            longer = best is None or last - first > best[1] - best[0]
            if longer and f" {' '.join(run)} " in f" {title} " and any(len(word) > shortest for word in run):
                best = first, last
    if best is None:
        return None
    place = rng.choice([place for place in range(*best) if len(words.words[place]) > shortest])
    start, end = words.starts[place], words.ends[place]
    word = text[start:end]
    if slips == 2:
        middle = len(word) // 2
        return text[:start] + misspell(word[:middle], rng) + misspell(word[middle:], rng) + text[end:]
    return text[:start] + misspell(word, rng) + text[end:]


def attack_texts(name: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Each sentence of an ATT&CK split with all its gold links."""
    texts: dict[str, list[dict[str, Any]]] = {}
    for link in read_lines(DATA / "attack" / f"links_{name}.jsonl"):
        # Some annotations write the IRI of a group otherwise than the site does.
        link["entity"] = re.sub(r"/group/", "/groups/", link["entity"]).rstrip("/")
        texts.setdefault(link["text"], []).append(link)
    yield from texts.items()


def _overlap(mention: Mention, link: dict[str, Any]) -> bool:
    return bool(mention.start < link["mention"]["end"] and link["mention"]["start"] < mention.end)


def measure_attack(
    retriever: CompiledRetriever, name: str
) -> tuple[dict[str, Any], list[Judged], list[tuple[str, Mention]]]:
    """Software and group links against the gold ones; the wrong ones come with their texts."""
    found = missed = right = own = 0
    judged: list[Judged] = []
    wrong: list[tuple[str, Mention]] = []
    for text, links in attack_texts(name):
        mentions = [one for one in retriever.link(text) if any(kind in one.entity for kind in KINDS)]
        for link in links:
            if any(kind in link["entity"] for kind in KINDS) and retriever.index.find(link["entity"]) is not None:
                hit = any(mention.entity == link["entity"] and _overlap(mention, link) for mention in mentions)
                found, missed = found + hit, missed + (not hit)
        for mention in mentions:
            over = [link for link in links if _overlap(mention, link)]
            good = any(link["entity"] == mention.entity for link in over)
            if not good and any("#node" in link["entity"] for link in over):
                own += 1
                continue
            judged.append(judge(mention, good))
            right += good
            if not good:
                wrong.append((text, mention))
    return (
        {
            "gold_mentions": found + missed,
            "recall": round(found / (found + missed), 4),
            "precision": round(right / (right + len(wrong)), 4),
            "wrong": len(wrong),
            "on_annotators_own_entities": own,
        },
        judged,
        wrong,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", default="dev", choices=("train", "dev"))
    parser.add_argument("--wrong", type=Path, help="write the wrong ATT&CK links with their texts there, to be read")
    arguments = parser.parse_args()
    command = f"python benchmarks/bench_kg_links.py --split {arguments.split}"
    results: dict[str, Any] = {"command": command, "hardware": hardware(), "split": arguments.split}
    with tempfile.TemporaryDirectory() as folder:
        retriever = CompiledRetriever(compile_graph(DATA / "infotabs" / "graph.nq.gz", Path(folder) / "infotabs"))
        claims = Claims(retriever, arguments.split)
        plain, judged = claims.measure()
        results["infotabs"] = {
            "as_written": plain,
            "one_slip": claims.measure(claims.misspelt(1))[0],
            "two_slips": claims.measure(claims.misspelt(2))[0],
            "calibration": reliability(judged),
        }
        retriever = CompiledRetriever(compile_graph(DATA / "attack" / "graph.nt.gz", Path(folder) / "attack"))
        results["attack"], judged, wrong = measure_attack(retriever, arguments.split)
        results["attack"]["calibration"] = reliability(judged)
    if arguments.wrong:
        lines = (
            json.dumps({"text": text, "start": m.start, "mention": m.text, "entity": m.entity, "score": m.score})
            for text, m in wrong
        )
        arguments.wrong.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.split == "dev":
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
