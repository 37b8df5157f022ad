"""One pass over a graph: labels, what `lookup` and `spellings` read, and word statistics, in dictionaries."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from groundwire.kg.conflicts import find_conflicts, functional_predicates
from groundwire.kg.fuse import Fusion, make_fusion
from groundwire.kg.index import ALTERNATIVE, LABEL
from groundwire.kg.info import graph_version
from groundwire.kg.labels import (
    COMMON,
    MOST_SHARED,
    LabelRules,
    Preference,
    label_owner,
    lone_names,
    lower_case_words,
    matched_key,
    prefer,
    shape_of,
)
from groundwire.kg.parts import parts_of
from groundwire.kg.settings import GraphSettings
from groundwire.kg.source import ContentHash, QuadSource
from groundwire.kg.spell import deletions, spellable
from groundwire.kg.terms import Quad, fallback_label, is_iri, literal_parts
from groundwire.kg.text import squeeze
from groundwire.kg.types import GraphInfo
from groundwire.kg.words import label_stems


@dataclass(slots=True)
class _Gathered:
    """What one pass over the quads gives."""

    triples: set[Quad] = field(default_factory=set)
    labels: list[tuple[str, str, int]] = field(default_factory=list)
    preferred: dict[str, Preference] = field(default_factory=dict)
    described: dict[str, Preference] = field(default_factory=dict)
    schema: set[str] = field(default_factory=set)
    same: list[tuple[str, str]] = field(default_factory=list)

    def fuse(self, fusion: Fusion) -> None:
        """Say everything of the terms that stand for others."""
        of = fusion.of
        self.triples = {(of(s), of(p), of(o), g) for s, p, o, g in self.triples}
        self.labels = [(label, of(s), kind) for label, s, kind in self.labels]
        self.schema = set(map(of, self.schema))
        for chosen in (self.preferred, self.described):
            own = list(chosen.items())
            chosen.clear()
            for key, preference in own:
                prefer(chosen, of(key), preference)


def _gather(quads: Iterable[Quad], rules: LabelRules) -> _Gathered:
    got = _Gathered()
    for quad in quads:
        s, p, o, _ = quad
        got.schema.update(rules.schema_terms(quad))
        if p not in rules.not_evidence:
            got.triples.add(quad)
        elif p in rules.fusing:
            got.same.append((s, o))
        elif not o.startswith('"'):
            continue
        elif p in rules.names or p in rules.alternatives:
            label = squeeze(literal_parts(o)[0])
            if p in rules.names:
                prefer(got.preferred, s, rules.preference(p, o))
            got.labels.append((label, s, (LABEL if p in rules.names else ALTERNATIVE) + 2 * shape_of(label)))
        elif p in rules.descriptions:
            prefer(got.described, s, rules.preference(p, o))
    return got


class Scan:
    """What a graph held when it was read; nothing changes it afterwards.

    `labels` and `descriptions` are by term. `key_texts` are the folded labels in order, `keys` their numbers by the
    label without spaces, `postings` the (entity, kind + 2 * shape) of each. `parts` and `spellings` are by part and by
    form; `frequency` counts the triples that hold each stem, `lower` is how often a word stands in lower case.
    `fusion` tells which terms are one entity; all else is in the terms that stand for them. `conflicts` are the
    (subject, functional predicate) with several values; of a graph that is not read whole, none are known.
    `content` is a hash of the quads: the same when they are, in whatever order.

    Args:
        source: the graph.
        settings: which predicates name and describe.
        hashes: the sources' hashes; None takes them from the quads.
        hashed: the `content` that `hashes` belong to; None for this one.
    """

    def __init__(
        self,
        source: QuadSource,
        settings: GraphSettings,
        hashes: Mapping[str, str] | None = None,
        hashed: str | None = None,
    ) -> None:
        rules = LabelRules(settings)
        contents = source.contents(rules)
        content_hash = ContentHash(blank_nodes=not source.remote)
        got = _gather(content_hash.over(contents.quads), rules)
        got.schema.update(contents.schema)
        self.fusion = make_fusion(got.same, got.preferred.get, settings)
        if self.fusion.canonical:
            got.fuse(self.fusion)
        triples, labels = got.triples, got.labels
        conflicts = find_conflicts(triples, functional_predicates(triples, settings, self.fusion))
        self.conflicts = {(conflict.subject, conflict.predicate) for conflict in conflicts}
        self.labels = {key: label for key, (_, _, label) in got.preferred.items()}
        said = Counter(contents.said)
        for _, p, o, _ in triples:
            said.update((p, o))
        used = {key for s, _, o, _ in triples for key in (s, o)}
        if not contents.whole:  # what has a name is taken to be in some triple
            used = {s for _, s, _ in labels}
            said.update(dict.fromkeys(used, 1))
        named = used | set(contents.said) | {p for _, p, _, _ in triples} | {g for _, _, _, g in triples if g}
        self.frequency: Counter[str] = Counter()
        for key in named:
            for word in label_stems(self.label(key)):
                self.frequency[word] += said[key]
        self.descriptions = {key: text for key, (_, _, text) in got.described.items() if key in named}
        self.lower = self._count_words(used)
        linkable = {key for key in used if is_iri(key)} - got.schema
        self._index_names([(label, s, kind) for label, s, kind in labels if s in linkable])
        self.entities = {owner for postings in self.postings for owner, _ in postings}
        self.content = content_hash.hexdigest()
        if hashes is None or (hashed is not None and hashed != self.content):
            hashes = {source.name if source.remote else "graph": self.content}
        self.info = GraphInfo(
            version=graph_version(hashes, settings),
            triples=len(triples) if contents.whole else contents.triples,
            entities=len(self.entities),
            labels=len(self.key_texts),
            predicates=len(contents.said or {p for _, p, _, _ in triples}),
            named_graphs=contents.named_graphs or len({g for _, _, _, g in triples if g}),
            retriever="rdflib",
            source_hashes=dict(hashes),
        )

    def label(self, key: str) -> str:
        """The label that people read."""
        return self.labels.get(key) or self.labels.get(label_owner(key)) or fallback_label(key)

    def _count_words(self, used: set[str]) -> dict[str, int]:
        lower: Counter[str] = Counter()
        for text in self.descriptions.values():
            lower.update(lower_case_words(text))
            lower.update(lone_names(text))
        for key in used:
            if key.startswith('"'):
                lower.update(lower_case_words(literal_parts(key)[0]))
        return {word: count for word, count in lower.items() if count >= COMMON}

    def _index_names(self, labels: list[tuple[str, str, int]]) -> None:
        owners: dict[str, dict[str, int]] = defaultdict(dict)
        parts: dict[str, set[str]] = defaultdict(set)
        for label, owner, kind in labels:
            key = matched_key(label)
            if key:
                owners[key][owner] = min(kind, owners[key].get(owner, kind))
                for part in parts_of(label):
                    parts[part].add(key)
        self.key_texts = sorted(owners)
        numbers = {key: number for number, key in enumerate(self.key_texts)}
        self.keys: dict[str, list[int]] = {}
        self.postings: list[list[tuple[str, int]]] = []
        self.spellings: dict[str, set[str]] = {}
        for key in self.key_texts:
            self.keys.setdefault(key.replace(" ", ""), []).append(numbers[key])
            self.postings.append(sorted(owners[key].items()))
            for word in filter(spellable, key.split(" ")):
                for form in deletions(word):
                    self.spellings.setdefault(form, set()).add(word)
        self.parts = {
            part: sorted(numbers[key] for key in keys) for part, keys in parts.items() if len(keys) <= MOST_SHARED
        }
        self.longest_key_words = max((key.count(" ") + 1 for key in owners), default=0)
        self.longest_key = max((len(key.replace(" ", "")) for key in owners), default=0)
