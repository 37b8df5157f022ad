"""Claims about the demo's graph: supported by it, contradicted by it, or not decided by it.

The text alone must not tell the label. So each wording serves all three labels, each predicate has as many claims of
each label, and the objects of contradicted and of undecided claims are drawn from those of the same predicate. A claim
is undecided when the graph has no fact of its predicate on its subject; many of those are true in the world all the
same. The same seed gives the same claims.
"""

import json
import random
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from groundwire.demo.world import BASE, FOLDER, Split, World, read_world

Label = Literal["supported", "contradicted", "not_enough_info"]
LABELS: tuple[Label, ...] = get_args(Label)
SIZES: dict[Split, int] = {"train": 6500, "calibration": 600, "test": 600}
SEED = 20250
_ALIASED = 0.15  # share of the names that are another name than the label
_PREFACED = 0.08
_PREFACES = ("According to the atlas, ", "I read that ", "It is true that ", "As far as I know, ", "They say that ")
_MISSPELT = 0.15  # share of the claims with one or two words misspelt or disguised
_LOOKALIKES = {"a": "@", "e": "3", "i": "1", "o": "0", "s": "$"}
_CONFUSED = 0.35  # share of the claims that are not supported whose object is another fact's of the subject
_TRIES = 60  # draws for a claim of a kind that gives no new text any more


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of a JSONL file. `entities` are the IRIs that the text names."""

    id: str
    text: str
    label: Label
    entities: list[str]


# What a kind of claim gives: template, subject, object, entities beside the subject, label. None when it finds nothing.
Drawn = tuple[str, dict[str, str], list[str], Label]
Kind = Callable[[Label], Drawn | None]


class Claims:
    """The claims of one split, drawn with one source of chance."""

    def __init__(self, world: World, split: Split, seed: int = SEED) -> None:
        self.world = world
        self.split = split
        self.random = random.Random(f"{seed} {split}")
        self.cities: dict[str, list[str]] = {}
        for city in world.subjects("City"):
            for country in world.facts.get((city, "country"), []):
                self.cities.setdefault(country, []).append(city)
        self.wordings: dict[str, dict[str, Any]] = tomllib.loads((FOLDER / "wordings.toml").read_text(encoding="utf-8"))

    def draw(self, size: int) -> list[Claim]:
        """`size` claims, as near to balance between labels, and within each predicate, as the facts allow."""
        kinds = list(self._kinds())
        seen: set[str] = set()
        claims: list[Claim] = []
        rounds = iter(lambda: [(kind, label) for kind in kinds for label in LABELS], None)
        for each in rounds:
            before = len(claims)
            for kind, label in each:
                drawn = next(filter(None, (self._fresh(kind, label, seen) for _ in range(_TRIES))), None)
                if drawn is not None:
                    claims.append(drawn)
            if len(claims) >= size or len(claims) == before:
                break
        self.random.shuffle(claims)
        # Cut label by label, so that those which ran out of facts don't tip the balance.
        by_label = [[claim for claim in claims if claim.label == label] for label in LABELS]
        chosen = [claim for part in by_label for claim in part[: -(-size // len(LABELS))]]
        self.random.shuffle(chosen)
        return [Claim(f"{self.split}-{n:04d}", c.text, c.label, c.entities) for n, c in enumerate(chosen[:size])]

    def _fresh(self, kind: Kind, label: Label, seen: set[str]) -> Claim | None:
        drawn = kind(label)
        if drawn is None:
            return None
        template, terms, entities, label = drawn
        text = template.format_map({slot: self._name(term) for slot, term in terms.items()})
        text = text[0].upper() + text[1:]
        if self.random.random() < _PREFACED:
            # A name keeps its capital, and so does "The" of one.
            text = self.random.choice(_PREFACES) + (text if template[0] == "{" else text[0].lower() + text[1:])
        if self.random.random() < _MISSPELT:
            text = self._misspell(text)
        if text in seen:
            return None
        seen.add(text)
        return Claim("", text, label, sorted(set(entities)))

    def _misspell(self, text: str) -> str:
        """Change one letter, or swap two, in one or two words that are no names. A person still reads them right."""
        words = text.split(" ")
        fit = [n for n, word in enumerate(words) if word.isalpha() and word.islower() and len(word) > 2]
        for n in self.random.sample(fit, min(len(fit), self.random.choice([1, 1, 2]))):
            word, at = words[n], self.random.randrange(1, len(words[n]))
            alike = [k for k, letter in enumerate(word) if letter in _LOOKALIKES]
            changed = [
                word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
                word[:at] + word[at + 1 :],
                word[:at] + word[at - 1 :],
            ]
            if alike:
                k = self.random.choice(alike)
                changed.append(word[:k] + _LOOKALIKES[word[k]] + word[k + 1 :])
            words[n] = self.random.choice(changed)
        return " ".join(words)

    def _name(self, term: str) -> str:
        alias = self.random.randrange(99) if self.random.random() < _ALIASED else None
        return self.world.name(term, alias)

    def _here(self, entity: str) -> bool:
        """Whether the entity may be named in this split."""
        return self.world.split(entity) in {self.split, None}

    def _kinds(self) -> Iterator[Kind]:
        """One kind of claim for each predicate, and those that compare numbers."""
        for predicate, wording in self.wordings.items():
            subjects = [s for s in self.world.subjects(wording["of"]) if self._here(s)]
            stated = {s: self.world.facts.get((s, predicate), []) for s in subjects}
            known = [s for s in subjects if any(map(self._here, stated[s]))]
            unknown = [s for s in subjects if not stated[s]]
            if known and unknown:
                yield self._fact_kind(predicate, wording, known, unknown)
                if "more" in wording:
                    yield self._threshold_kind(predicate, wording, known, unknown)
                    yield self._comparison_kind(predicate, wording, known, unknown)

    def _fact_kind(self, predicate: str, wording: dict[str, Any], known: list[str], unknown: list[str]) -> Kind:
        """Claims of one predicate. Objects are drawn as often as they stand in supported claims."""
        pool = [o for s in known for o in self.world.facts[s, predicate] if self._here(o)]

        pair: list[tuple[str, str]] = []  # the last supported claim's template and subject

        def draw(label: Label) -> Drawn | None:
            template = self.random.choice(wording["say"])
            subject = self.random.choice(unknown if label == "not_enough_info" else known)
            if label == "supported":
                pair[:] = [(template, subject)]
            elif label == "contradicted" and pair:
                template, subject = pair.pop()  # they differ in the object alone: what the model must learn to compare
            truth = self.world.truth(subject, predicate)
            near = self._near(predicate, subject, unknown) or pool
            if label == "not_enough_info":
                hidden = [o for o in truth if self._here(o) and (o in near or predicate != "borders")]
                objects = hidden if hidden and self.random.random() < 0.5 else near
            elif label == "supported":
                objects = [o for o in truth if self._here(o)]
            else:
                objects = [o for o in self.random.choice([near, pool]) if self._differs(predicate, o, truth)]
            if label != "supported" and predicate != "borders" and self.random.random() < _CONFUSED:
                objects = self._confused(predicate, subject, pool, truth) or objects
            objects = [o for o in objects if o != subject]
            if not objects:
                return None
            obj = self.random.choice(objects)
            return template, {"s": subject, "o": obj}, [subject, *self._entity(obj)], label

        return draw

    def _near(self, predicate: str, subject: str, unknown: list[str]) -> list[str]:
        """Objects that leave an undecided claim undecided, where those of the predicate would not.

        A city of another country can't be the capital, and a country whose neighbours are stated has no other ones.
        """
        if predicate in {"capital", "largest-city"}:
            return self.cities.get(subject, [])
        return unknown if predicate == "borders" else []

    def _confused(self, predicate: str, subject: str, pool: Sequence[str], truth: Sequence[str]) -> list[str]:
        """What another predicate says of the subject, of the right class: the largest city for the capital.

        Without such claims, a triple between the two entities would be sign enough that a claim is supported.
        """
        classes = {self.world.classes.get(o) for o in pool} - {None}
        others = [o for (s, p), objects in self.world.facts.items() if s == subject and p != predicate for o in objects]
        return [o for o in others if self.world.classes.get(o) in classes and o not in truth and self._here(o)]

    def _differs(self, predicate: str, obj: str, truth: Sequence[str]) -> bool:
        """Whether an object is clearly none of the true ones: "about 5.1 million" doesn't deny 5.2 million."""
        if predicate == "population-rounded":
            return all(not 0.7 < count(obj) / count(true) < 1.4 for true in truth)
        return obj not in truth

    def _threshold_kind(self, predicate: str, wording: dict[str, Any], known: list[str], unknown: list[str]) -> Kind:
        """More or fewer than a round number, which is at least a third off."""

        def draw(label: Label) -> Drawn | None:
            subject = self.random.choice(unknown if label == "not_enough_info" else known)
            truth = self.world.truth(subject, predicate)
            if not truth:
                return None
            people = count(truth[0])
            steps = [d * 10**e for e in range(4, 10) for d in (1, 2, 3, 5) if 0.05 < d * 10**e / people < 20]
            steps = [n for n in steps if not 0.7 < n / people < 1.4]
            if not steps:
                return None
            limit = self.random.choice(steps)
            more = (
                self.random.random() < 0.5 if label == "not_enough_info" else (people > limit) == (label == "supported")
            )
            template = self.random.choice(wording["more" if more else "fewer"])
            return template, {"s": subject, "n": said(limit)}, [subject], label

        return draw

    def _comparison_kind(self, predicate: str, wording: dict[str, Any], known: list[str], unknown: list[str]) -> Kind:
        """One country against another."""

        def draw(label: Label) -> Drawn | None:
            one, other = self.random.sample(known, 2)
            if label == "not_enough_info":
                one = self.random.choice(unknown)
                pair = [one, other] if self.random.random() < 0.5 else [other, one]
            else:
                people = [count(self.world.facts[s, predicate][0]) for s in (one, other)]
                if 0.7 < people[0] / people[1] < 1.4:
                    return None
                pair = [one, other] if (people[0] > people[1]) == (label == "supported") else [other, one]
            return self.random.choice(wording["compare"]), {"s": pair[0], "o": pair[1]}, pair, label

        return draw

    def _entity(self, term: str) -> list[str]:
        return [term] if term.startswith(BASE) else []


def count(rounded: str) -> float:
    """The number that a rounded population says: `5.3 million`."""
    number, _, unit = rounded.partition(" ")
    return float(number) * {"": 1, "thousand": 1e3, "million": 1e6}[unit]


def said(number: int) -> str:
    """A round number as people say it: `5 million`, `300 thousand`, `1 billion`."""
    for size, unit in ((10**9, "billion"), (10**6, "million"), (10**3, "thousand")):
        if number >= size:
            return f"{number // size} {unit}"
    return str(number)


def write_claims(folder: Path, seed: int = SEED) -> dict[Split, Path]:
    """Write the claims of each split to `SPLIT.jsonl` in `folder`, which is made when it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    world = read_world()
    paths: dict[Split, Path] = {}
    for split, size in SIZES.items():
        paths[split] = folder / f"{split}.jsonl"
        rows = [json.dumps(asdict(claim), ensure_ascii=False) for claim in Claims(world, split, seed).draw(size)]
        paths[split].write_text("\n".join(rows) + "\n", encoding="utf-8", newline="\n")
    return paths
