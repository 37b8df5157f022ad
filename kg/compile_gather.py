"""The first step of compiling: one pass over the quads, which tells evidence from names, and numbers the terms."""

from __future__ import annotations  # array[int] is no class at run time before Python 3.12

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from groundwire.kg.errors import SourceError
from groundwire.kg.index import ALTERNATIVE, LABEL
from groundwire.kg.labels import LabelRules, Preference, prefer, shape_of
from groundwire.kg.prepare import Progress
from groundwire.kg.settings import GraphSettings
from groundwire.kg.terms import Quad, literal_parts
from groundwire.kg.text import squeeze

_REPORT_EVERY = 100_000
_MOST_TERMS = (1 << 32) - 2


@dataclass(slots=True)
class Gathered:
    """What one pass over the sources gives; numbers are places in `strings`, in the order of first sight."""

    strings: dict[str, int] = field(default_factory=dict)
    quads: tuple[array[int], ...] = field(default_factory=lambda: tuple(array("I") for _ in range(4)))
    schema: set[int] = field(default_factory=set)
    preferred: dict[int, Preference] = field(default_factory=dict)
    label_owner: array[int] = field(default_factory=lambda: array("I"))
    label_kind: array[int] = field(default_factory=lambda: array("B"))
    label_text: list[str] = field(default_factory=list)
    described: dict[int, Preference] = field(default_factory=dict)
    same: list[tuple[str, str]] = field(default_factory=list)


def gather(quads: Iterable[Quad], settings: GraphSettings, report: Progress) -> Gathered:
    """Read the quads. `report` is told how many. Raises `SourceError` when there are more than 4 billion terms."""
    rules = LabelRules(settings)
    got = Gathered()
    strings, names, alternatives, skipped = got.strings, rules.names, rules.alternatives, rules.not_evidence
    add_s, add_p, add_o, add_g = (column.append for column in got.quads)
    number = strings.setdefault
    count = 0
    for count, quad in enumerate(quads, 1):
        s, p, o, g = quad
        for term in rules.schema_terms(quad):
            got.schema.add(number(term, len(strings)))
        if p not in skipped:
            add_s(number(s, len(strings)))
            add_p(number(p, len(strings)))
            add_o(number(o, len(strings)))
            add_g(number(g, len(strings)))
        elif o.startswith('"') and (p in names or p in alternatives):
            _add_label(got, rules, number(s, len(strings)), p, o)
        elif o.startswith('"') and p in rules.descriptions:
            prefer(got.described, number(s, len(strings)), rules.preference(p, o))
        elif p in rules.fusing:
            got.same.append((s, o))
        if count % _REPORT_EVERY == 0:
            report("read", count)
            if len(strings) > _MOST_TERMS:
                raise SourceError("the graph holds more than 4 billion terms; compile it in parts")
    report("read", count)
    return got


def _add_label(got: Gathered, rules: LabelRules, owner: int, predicate: str, literal: str) -> None:
    label = squeeze(literal_parts(literal)[0])
    if predicate in rules.names:
        prefer(got.preferred, owner, rules.preference(predicate, literal))
    if label:
        got.label_owner.append(owner)
        got.label_kind.append((LABEL if predicate in rules.names else ALTERNATIVE) + 2 * shape_of(label))
        got.label_text.append(label)
