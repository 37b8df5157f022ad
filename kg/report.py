"""What a build found, as `report.json` in the compiled folder: fused entities, conflicts, inferred triples."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groundwire.kg.conflicts import MOST_EXAMPLES, Conflict
from groundwire.kg.errors import CompiledGraphError
from groundwire.kg.fuse import Fusion

REPORT = "report.json"


def report_of(
    fusion: Fusion, conflicts: Sequence[Conflict], inferred: int, inconsistencies: Sequence[str]
) -> dict[str, Any]:
    """What the build found, as plain JSON values: fused clusters, conflicts (1,000 as examples), inferred triples."""
    return {
        "fused_entities": len(fusion.members),
        "fused_terms": len(fusion.canonical) + len(fusion.members),
        "not_fused": [{"term": term, "size": size} for term, size in fusion.refused],
        "conflict_count": len(conflicts),
        "conflicts": [one.to_json(fusion.iris(one.subject)) for one in conflicts[:MOST_EXAMPLES]],
        "inferred_triples": inferred,
        "inconsistencies": list(inconsistencies),
    }


def read_report(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The report of a compiled folder.

    `conflicts` holds up to 1,000 of `conflict_count`: `subject`, its other IRIs `same_as`, `predicate`, and `values`
    with the named `graphs` that state each (empty: the default graph). `not_fused` holds clusters that were too large,
    and `inconsistencies` what reasoning found wrong. Raises `CompiledGraphError` when it is missing or damaged.
    """
    file = Path(path) / REPORT
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CompiledGraphError(f"{file} can't be read ({error}); compile the graph again") from error
    return document
