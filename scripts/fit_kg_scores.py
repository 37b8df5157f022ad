"""Fit the weights of `groundwire.kg.link` on the train splits of InfoTabS and ATT&CK, and print them.

Run it with GROUNDWIRE_DATA naming the folder of the data sets. A span read as an entity is right when its label is that
of the claim's entity (InfoTabS) or when it overlaps a mention annotated with that entity (ATT&CK). Plain matches of
other whole labels are left out: InfoTabS names one entity a claim, though others may be meant as well.
"""

import json
import os
import random
import tempfile
from pathlib import Path

import numpy as np

from groundwire.kg import CompiledRetriever, compile_graph
from groundwire.kg.context import shared_words
from groundwire.kg.link import CONTEXT_EXPECTED, CONTEXT_LARGEST
from groundwire.kg.match import find_spans
from groundwire.kg.rank import make_query
from groundwire.kg.surface import FEATURES, features, written_spans
from groundwire.kg.text import key_of, split

DATA = Path(os.environ.get("GROUNDWIRE_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def misspell(word: str, rng: random.Random) -> str:
    """One inserted, deleted, changed, doubled or swapped letter, not the first."""
    place = rng.randrange(1, len(word)) if len(word) > 1 else 0
    kind = rng.choice(["swap", "delete", "insert", "change", "double"])
    if kind == "swap" and place + 1 < len(word):
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == "delete":
        return word[:place] + word[place + 1 :]
    if kind == "insert":
        return word[:place] + rng.choice(LETTERS) + word[place:]
    if kind == "double":
        return word[:place] + word[place] + word[place:]
    return word[:place] + rng.choice(LETTERS) + word[place + 1 :]


def misspell_title(retriever: CompiledRetriever, text: str, title: str, rng: random.Random) -> str | None:
    """The text with one slip in a word of its mention of the title; None when no whole or part of it is found."""
    for mention in retriever.link(text):
        if key_of(mention.label) == title:
            words = [m for m in split(mention.text).words if len(m) > 3]
            if not words:
                return None
            inside = split(mention.text)
            places = [i for i, word in enumerate(inside.words) if len(word) > 3]
            place = rng.choice(places)
            start, end = mention.start + inside.starts[place], mention.start + inside.ends[place]
            return text[:start] + misspell(text[start:end], rng) + text[end:]
    return None


def rows_of(retriever: CompiledRetriever, text: str, verdict) -> tuple[list[list[float]], list[bool]]:
    """Features (with context last) and verdict of each reading of the text that has one."""
    index, words = retriever.index, split(text)
    spans: dict[tuple[int, int], list] = {}
    for span in find_spans(index, text, words):
        spans.setdefault((span.first, span.last), []).append(span)
    places = list(spans)
    written = written_spans(index, text, words, places) if places else []
    capitals = text != text.lower()
    readings = []
    for place, how in zip(places, written, strict=True):
        for span in spans[place]:
            for posting in index.postings(span.key)[:16]:
                values = features(how, span, index.key_text(span.key), posting, capitals)
                readings.append((place, span, posting, values, verdict(words, place, span, posting)))
    right = [place for place, _, _, _, good in readings if good]
    nodes = list(dict.fromkeys(posting.node for _, _, posting, _, _ in readings))
    context = dict(zip(nodes, shared_words(index, make_query(index, words), nodes), strict=True)) if nodes else {}
    rows, verdicts = [], []
    best: dict[tuple, tuple] = {}
    for place, _, posting, values, good in readings:
        if good is None:
            continue
        inner = any(a <= place[0] and place[1] <= b and (a, b) != place for a, b in right)
        if inner:
            continue
        shared = min(CONTEXT_LARGEST, context[posting.node])
        rank = (good, shared)
        if place not in best or rank > best[place][0]:
            best[place] = (rank, [*values, shared - CONTEXT_EXPECTED], good)
    for _, values, good in best.values():
        rows.append(values)
        verdicts.append(good)
    return rows, verdicts


def infotabs(folder: Path) -> tuple[list, list]:
    rng = random.Random(0)
    retriever = CompiledRetriever(compile_graph(DATA / "infotabs" / "graph.nq.gz", folder / "infotabs"))
    index = retriever.index
    claims = [json.loads(line) for line in (DATA / "infotabs" / "train.jsonl").read_text().splitlines()]
    rows, verdicts = [], []
    for claim in rng.sample(claims, 5000):
        title = key_of(index.label(index.find(claim["entities"][0])))

        def verdict(words, place, span, posting, title=title):
            if key_of(index.label(posting.node)) == title:
                return True
            return None if not span.part and not span.edits and place[1] - place[0] > 1 else False

        text = claim["text"]
        if rng.random() < 0.3:
            text = misspell_title(retriever, text, title, rng) or text
        some, verdicts_ = rows_of(retriever, text, verdict)
        rows += some
        verdicts += verdicts_
    return rows, verdicts


def attack(folder: Path) -> tuple[list, list]:
    retriever = CompiledRetriever(compile_graph(DATA / "attack" / "graph.nt.gz", folder / "attack"))
    index = retriever.index
    texts: dict[str, list] = {}
    for line in (DATA / "attack" / "links_train.jsonl").read_text().splitlines():
        link = json.loads(line)
        texts.setdefault(link["text"], []).append(link)
    rows, verdicts = [], []
    for text, links in texts.items():

        def verdict(words, place, span, posting, links=links):
            entity = index.key(posting.node)
            if "/software/" not in entity and "/groups/" not in entity:
                return None
            start, end = words.starts[place[0]], words.ends[place[1] - 1]
            over = [x for x in links if x["mention"]["start"] < end and start < x["mention"]["end"]]
            if any(x["entity"] == entity for x in over):
                return True
            # Annotators named some with identifiers of their own, and left others out.
            return None if any("#node" in x["entity"] for x in over) else False

        some, verdicts_ = rows_of(retriever, text, verdict)
        rows += some
        verdicts += verdicts_
    return rows, verdicts


def fit(rows: np.ndarray, verdicts: np.ndarray, weights: np.ndarray, penalty: float = 1e-3) -> np.ndarray:
    """Logistic regression by Newton's method; shapes (n, d), (n,), (n,) -> (d,)."""
    coefficients = np.zeros(rows.shape[1])
    for _ in range(40):
        p = 1 / (1 + np.exp(-rows @ coefficients))
        gradient = rows.T @ (weights * (p - verdicts)) / weights.sum() + penalty * coefficients
        hessian = (rows * (weights * p * (1 - p))[:, None]).T @ rows / weights.sum() + penalty * np.eye(rows.shape[1])
        coefficients -= np.linalg.solve(hessian, gradient)
    return coefficients


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        sets = [infotabs(Path(folder)), attack(Path(folder))]
    names = [*FEATURES, "context"]
    rows = np.array([[1.0, *row] for some, _ in sets for row in some], dtype=float)
    verdicts = np.array([good for _, some in sets for good in some], dtype=float)
    weights = np.concatenate([np.full(len(some), 1 / len(some)) for some, _ in sets])
    for (some, good), name in zip(sets, ("infotabs", "attack"), strict=True):
        print(name, len(some), "readings,", sum(good), "right")
    coefficients = fit(rows, verdicts, weights * len(rows) / 2)
    used = (rows != 0).sum(axis=0)
    print(f"bias {coefficients[0]:.2f}")
    for name, value, count in zip(names, coefficients[1:], used[1:], strict=True):
        print(f'"{name}": {value:.2f},  # {count}')


if __name__ == "__main__":
    main()
