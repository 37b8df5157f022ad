"""What a JSON-LD context would cost its parser: how many terms it defines, and by how many steps.

The parser recurses from a term to those that its definition uses (JSON-LD 1.1 API, section 4.2, "Create Term
Definition"), and copies all terms in force for each context that comes into force, also those that a term brings along
for its values ("scoped contexts").
"""

from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

LONGEST_CHAIN = 500  # terms, each defined by the next
_USED = ("@id", "@type", "@reverse", "@index")  # what a definition names other terms in


@dataclass(slots=True)
class Context:
    """A context in numbers.

    `terms` it leaves in force, `fresh` when those before it are not any more; `nested` contexts inside it; and in
    `scoped` the terms that bring a context along, with how many that is.
    """

    terms: int = 0
    fresh: bool = False
    nested: int = 0
    scoped: dict[str, int] = field(default_factory=dict)


def measure(value: Any) -> Context:
    """The numbers of the value of an `@context`, with objects as tuples of pairs.

    Raises `ValueError` when terms are defined by each other in more than 500 steps, or in a circle.
    """
    found = Context()
    for item in value if isinstance(value, list) else [value]:
        if item is None:
            found.terms, found.fresh = 0, True
        elif isinstance(item, tuple):
            _add(found, item)
            if len(item) > LONGEST_CHAIN:
                _check_chains(item)
    return found


def _add(found: Context, pairs: tuple[tuple[str, Any], ...]) -> None:
    for term, definition in pairs:
        if term.startswith("@"):
            continue
        found.terms += 1
        for key, scoped in definition if isinstance(definition, tuple) else ():
            if key == "@context":
                inner = measure(scoped)
                found.terms += inner.terms
                found.nested += 1 + inner.nested
                found.scoped |= inner.scoped | {term: 1 + inner.nested}


def _check_chains(pairs: tuple[tuple[str, Any], ...]) -> None:
    uses: dict[str, set[str]] = {term: set() for term, _ in pairs if not term.startswith("@")}
    for term, definition in pairs:
        if term in uses:
            given = [value for key, value in definition if key in _USED] if isinstance(definition, tuple) else []
            names = [term.partition(":")[0]]
            for name in (definition, *given):
                if isinstance(name, str):
                    names += (name, name.partition(":")[0])
            uses[term].update(name for name in names if name in uses and name != term)
    sorter, steps = TopologicalSorter(uses), 0
    try:
        sorter.prepare()
    except CycleError as error:
        raise ValueError("terms are defined by each other in a circle") from error
    while ready := sorter.get_ready():
        sorter.done(*ready)
        steps += 1
    if steps > LONGEST_CHAIN:
        raise ValueError(f"terms are defined by each other in more than {LONGEST_CHAIN} steps")
