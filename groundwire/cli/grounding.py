"""Mentions, triples and graphs as tables and as JSON, for `groundwire kg`."""

import json
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from groundwire.kg import Candidate, Evidence, GraphInfo, Mention
from groundwire.surrogates import SURROGATE


def print_json(value: dict[str, Any]) -> None:
    """Print a value as one line of JSON."""
    # A lone surrogate (from an argument that is not UTF-8) can't be written as UTF-8, but as an escape.
    line = json.dumps(value, ensure_ascii=False)
    if SURROGATE.search(line):
        line = json.dumps(value)
    click.echo(line)


def mentions_json(mentions: tuple[Mention, ...] | list[Mention]) -> list[dict[str, Any]]:
    """Mentions with their candidates, as JSON."""
    return [
        {
            "start": mention.start,
            "end": mention.end,
            "text": mention.text,
            "entity": mention.entity,
            "label": mention.label,
            "score": mention.score,
            "candidates": [_candidate_json(one) for one in mention.candidates],
        }
        for mention in mentions
    ]


def _candidate_json(candidate: Candidate) -> dict[str, Any]:
    found: dict[str, Any] = {"entity": candidate.entity, "score": candidate.score}
    return {**found, "same_as": list(candidate.same_as)} if candidate.same_as else found


def evidence_json(fact: Evidence) -> dict[str, Any]:
    """A triple with its relevance, as JSON."""
    return {
        "subject": fact.subject.value,
        "predicate": fact.predicate.value,
        "object": fact.object.value,
        "graph": fact.graph,
        "text": fact.text,
        "score": fact.relevance,
        **({"conflicting": True} if fact.conflicting else {}),
    }


def print_mentions(text: str, mentions: tuple[Mention, ...] | list[Mention]) -> None:
    """Print the mentions of a text as a table."""
    table = Table("span", "mention", "entity", "label", "score", title=text, title_justify="left", expand=False)
    for mention in mentions:
        table.add_row(
            f"{mention.start}-{mention.end}", mention.text, mention.entity, mention.label, f"{mention.score:.2f}"
        )
    if mentions:
        _console().print(table, markup=False)
    else:
        click.echo(f"{text}\nno entity found")


def print_evidence(evidence: tuple[Evidence, ...], coverage: float) -> None:
    """Print triples as a table, and which share of the text they cover."""
    table = Table("relevance", "evidence", "graph", expand=False)
    for fact in evidence:
        table.add_row(f"{fact.relevance:.2f}", fact.text, fact.graph)
    if evidence:
        _console().print(table, markup=False)
    click.echo(f"coverage {coverage:.2f}")


def _console() -> Console:
    return Console(markup=False, highlight=False)


def in_numbers(info: GraphInfo) -> str:
    """A graph in numbers, in one line."""
    return (
        f"{info.triples:,} triples, {info.entities:,} entities, {info.labels:,} labels, "
        f"{info.predicates:,} predicates, {info.named_graphs:,} named graphs"
    )
