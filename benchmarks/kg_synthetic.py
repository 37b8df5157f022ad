"""A synthetic graph of any size with the shape of real ones: names of two or three words, hubs, literals, types.

Words are drawn by Zipf's law, so some label words are shared by thousands of entities and most by few; objects of
relations are drawn the same way, so a few entities are hubs. Everything follows from the seed.
"""

import itertools
import random
from pathlib import Path

import numpy as np

RDFS_LABEL = "http://www.w3.org/2000/01/rdf-schema#label"
RDF_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
BASE = "http://synthetic.example/"
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "il")]
PROPERTIES = ["birth place", "occupation", "employer", "award received", "founded", "population", "genre", "language"]
FILLER = [
    "was",
    "said",
    "to",
    "have",
    "been",
    "seen",
    "near",
    "the",
    "old",
    "harbour",
    "when",
    "rain",
    "fell",
    "over",
    "the",
    "hills",
    "and",
    "people",
    "told",
    "stories",
]


def vocabulary(count: int) -> list[str]:
    """`count` distinct words of two to four syllables."""
    words = ("".join(parts) for length in (2, 3, 4) for parts in itertools.product(SYLLABLES, repeat=length))
    rng = random.Random(1)
    found = list(itertools.islice(words, count * 3))
    rng.shuffle(found)
    return found[:count]


class Synthetic:
    """A graph of `triples` triples about `triples / 5` labelled entities."""

    def __init__(self, triples: int, seed: int = 7) -> None:
        self.entities = triples // 5
        self.triples = triples
        self.words = vocabulary(max(2000, self.entities // 8))
        rng = np.random.default_rng(seed)
        size = (self.entities, 3)
        # A power of a uniform number: word i is drawn with a density that falls like i^(-2/3).
        self.label_words = (rng.random(size) ** 3 * len(self.words)).astype(np.int32)
        self.lengths = rng.integers(2, 4, self.entities)
        self.seed = seed

    def label(self, entity: int) -> str:
        """The label of an entity."""
        chosen = self.label_words[entity, : self.lengths[entity]]
        return " ".join(self.words[word].capitalize() for word in chosen)

    def write(self, path: Path) -> None:
        """Write the graph as N-Triples."""
        rng = np.random.default_rng(self.seed + 1)
        block = 100_000
        with path.open("w", encoding="ascii", buffering=1 << 20) as out:
            for start in range(0, self.entities, block):
                count = min(block, self.entities - start)
                targets = (rng.random((count, 1)) ** 3 * self.entities).astype(np.int64)
                values = rng.integers(0, len(self.words), (count, 2, 3))
                kinds = rng.integers(0, len(PROPERTIES), (count, 3))
                years = rng.integers(1000, 2024, count)
                lines = []
                for row in range(count):
                    entity = start + row
                    subject = f"<{BASE}e/{entity}>"
                    p, q, r = kinds[row]
                    one, two = (" ".join(self.words[w] for w in some) for some in values[row])
                    lines.append(
                        f'{subject} <{RDFS_LABEL}> "{self.label(entity)}" .\n'
                        f"{subject} <{RDF_TYPE}> <{BASE}class/{entity % 50}> .\n"
                        f"{subject} <{BASE}p/{PROPERTIES[p].replace(' ', '_')}> <{BASE}e/{targets[row, 0]}> .\n"
                        f'{subject} <{BASE}p/{PROPERTIES[q].replace(" ", "_")}> "{one} {years[row]}" .\n'
                        f'{subject} <{BASE}p/{PROPERTIES[r].replace(" ", "_")}> "{two}" .\n'
                    )
                out.write("".join(lines))

    def texts(self, count: int, mentions: int = 3, length: int = 200) -> list[tuple[str, list[int]]]:
        """Texts of about `length` characters that name `mentions` entities, with those entities."""
        rng = random.Random(self.seed)
        made = []
        for _ in range(count):
            entities = [rng.randrange(self.entities) for _ in range(mentions)]
            names = [self.label(entity) for entity in entities]
            room = max(mentions, length - sum(map(len, names)))
            pieces: list[str] = []
            for name in names:
                pieces.append(name)
                filler = 0
                while filler < room // mentions - 4:
                    word = rng.choice(FILLER)
                    pieces.append(word)
                    filler += len(word) + 1
            made.append((" ".join(pieces) + ".", entities))
        return made
