"""Fusion: entities that the graph says are the same become one, which keeps all its IRIs.

Clusters are the connected components of the settings' `fusion_predicates` (`owl:sameAs`, `skos:exactMatch`), found with
union-find (Tarjan 1975). One member stands for all, whatever the order of the triples: an IRI before a blank node, then
the member whose preferred label ranks first among the settings' languages and label predicates, then the smallest IRI.

Literals are never fused, nor are terms of RDF, RDFS, OWL, SKOS and XSD, nor predicates that the settings name. A
cluster of more than `fusion_limit` members is left as it is, with a warning: so many names of one thing are mostly a
hub that misuses `owl:sameAs` for "see also". An entity that is fused with a class or a property counts as schema.
"""

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from groundwire.kg.errors import GraphWarning
from groundwire.kg.labels import Preference
from groundwire.kg.settings import VOCABULARIES, GraphSettings
from groundwire.kg.terms import is_blank, is_literal

_NO_LABEL = 1 << 30


@dataclass(frozen=True, slots=True)
class Fusion:
    """Which terms are one entity.

    `canonical` maps each member of a cluster but the one that stands for it to that one; `members` maps the one that
    stands for a cluster to the others, sorted; `refused` holds the smallest member and the size of each cluster that
    was too large.
    """

    canonical: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refused: tuple[tuple[str, int], ...] = ()

    def of(self, key: str) -> str:
        """The term that stands for a term: mostly itself."""
        return self.canonical.get(key, key)

    def iris(self, key: str) -> tuple[str, ...]:
        """The other IRIs of the entity that `key` stands for, sorted."""
        return tuple(member for member in self.members.get(key, ()) if not is_blank(member))


def make_fusion(
    pairs: Iterable[tuple[str, str]], preference: Callable[[str], Preference | None], settings: GraphSettings
) -> Fusion:
    """Fuse the terms of `pairs`. `preference` gives the preference of a term's own best label, None without one.

    Warns with `GraphWarning` of clusters that are too large.
    """
    canonical: dict[str, str] = {}
    members: dict[str, tuple[str, ...]] = {}
    refused: list[tuple[str, int]] = []

    def rank(key: str) -> tuple[bool, int, int, str]:
        found = preference(key)
        return (is_blank(key), *(found[:2] if found else (_NO_LABEL, _NO_LABEL)), key)

    for cluster in _clusters(pairs, settings):
        if len(cluster) > settings.fusion_limit:
            refused.append((min(cluster), len(cluster)))
            continue
        first = min(cluster, key=rank)
        others = sorted(member for member in cluster if member != first)
        members[first] = tuple(others)
        canonical.update(dict.fromkeys(others, first))
    refused.sort()
    for name, size in refused:
        warnings.warn(
            f"{size} terms around {name} are said to be the same, more than fusion_limit ({settings.fusion_limit}): "
            "they are not fused; correct the links or raise the limit",
            GraphWarning,
            stacklevel=2,
        )
    return Fusion(canonical, members, tuple(refused))


def _clusters(pairs: Iterable[tuple[str, str]], settings: GraphSettings) -> list[list[str]]:
    """The connected components of two or more terms, in no order."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        top = key
        while (above := parent.setdefault(top, top)) != top:
            top = above
        while parent[key] != top:
            parent[key], key = top, parent[key]
        return top

    kept = settings.naming_predicates
    for one, other in pairs:
        if one != other and not any(
            is_literal(key) or key in kept or key.startswith(VOCABULARIES) for key in (one, other)
        ):
            first, second = root(one), root(other)
            # The smaller string on top; compressed paths keep the trees flat.
            parent[max(first, second)] = min(first, second)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for key in list(parent):
        groups[root(key)].append(key)
    return list(groups.values())
