"""Predictions as people read them."""

import re

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from groundwire.v1 import prediction_pb2

_REASONS = {
    prediction_pb2.ABSTAIN_REASON_AMBIGUOUS: "more than one label, or none, conforms",
    prediction_pb2.ABSTAIN_REASON_OUT_OF_DISTRIBUTION: "unlike the training data",
    prediction_pb2.ABSTAIN_REASON_NOT_GROUNDED: "not tied to the graph",
}
_BAR = 24  # characters of a bar of probability 1
_SHOWN = 8  # scores, and triples, shown at most


def render_prediction(console: Console, text: str, prediction: prediction_pb2.Prediction) -> None:
    """Print one prediction: label and decision, scores, conformal set, uncertainty by cause, evidence."""
    accepted = prediction.decision == prediction_pb2.DECISION_ACCEPT
    colour = "green" if accepted else "yellow"
    headline = Text.assemble((prediction.label, f"bold {colour}"), f"  {prediction.probability:.1%}  ")
    if accepted:
        headline.append("accept", "bold green")
    else:
        reasons = "; ".join(_REASONS.get(reason, "unknown reason") for reason in prediction.abstain_reasons)
        headline.append("abstain", "bold yellow")
        headline.append(f": {reasons}")
    parts: list[RenderableType] = [headline, _scores(prediction), _uncertainty(prediction)]
    if prediction.evidence:
        parts.append(_evidence(prediction))
    console.print(Panel(Group(*parts), title=Text(_shortened(text)), title_align="left", border_style=colour))


def _scores(prediction: prediction_pb2.Prediction) -> Table:
    table = Table.grid(padding=(0, 1))
    ranked = sorted(prediction.scores, key=lambda score: -score.probability)
    for score in ranked[:_SHOWN]:
        bar = "█" * round(score.probability * _BAR)
        table.add_row(Text(score.label), Text(f"{score.probability:6.1%}"), Text(bar, "cyan"))
    chosen = prediction.prediction_set
    members = ", ".join(chosen.labels) or "no label"
    table.add_row(Text("set", "dim"), Text(f"{chosen.coverage:.0%}", "dim"), Text(f"{{{members}}}"))
    return table


def _uncertainty(prediction: prediction_pb2.Prediction) -> Table:
    uncertainty = prediction.uncertainty
    model, sensitivity = uncertainty.model, uncertainty.sensitivity
    knowledge, explanation = uncertainty.knowledge, uncertainty.explanation
    margin = f"margin {sensitivity.margin:.2f} {'covers' if sensitivity.covered else 'does not cover'} the attack"
    if sensitivity.robust_margin <= 1:
        margin += f" (needs {sensitivity.robust_margin:.2f})"
    if sensitivity.HasField("flip_rate"):
        margin += f"; {sensitivity.flip_rate:.0%} of {sensitivity.probes} typo probes flip it"
    known = "nothing in the graph; " if knowledge.not_in_graph else ""
    known += f"coverage {knowledge.coverage:.0%}, link confidence {knowledge.link_confidence:.2f}"
    if knowledge.conflicts:
        known += f", {knowledge.conflicts} conflicting facts"
    explained = f"{explanation.evidence_count} triples read, relevance up to {explanation.max_relevance:.2f}"
    if explanation.HasField("comprehensiveness"):
        explained += f"; without them {-explanation.comprehensiveness:+.2f}"
    spread = (
        f"{model.agreement:.0%} of {model.heads} heads agree, mutual information {model.mutual_information:.3f}; "
        f"further out than {model.distance_quantile:.0%} of the calibration data"
    )
    table = Table.grid(padding=(0, 1))
    for cause, what in (("models", spread), ("sensitivity", margin), ("knowledge", known), ("explanation", explained)):
        table.add_row(Text(cause, "dim"), Text(what))
    return table


def _evidence(prediction: prediction_pb2.Prediction) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim", pad_edge=False)
    contributions = any(triple.HasField("contribution") for triple in prediction.evidence)
    table.add_column("relevance", justify="right")
    if contributions:
        table.add_column("contribution", justify="right")
    table.add_column("evidence")
    named = any(triple.graph for triple in prediction.evidence)
    if named:
        table.add_column("graph")
    for triple in prediction.evidence[:_SHOWN]:
        row = [Text(f"{triple.relevance:.2f}")]
        if contributions:
            row.append(Text(f"{triple.contribution:+.3f}"))
        row.append(Text(triple.text))
        if named:
            row.append(Text(_short(triple.graph), "dim"))
        table.add_row(*row)
    if len(prediction.evidence) > _SHOWN:
        table.caption = f"and {len(prediction.evidence) - _SHOWN} more"
    return table


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


def _short(iri: str) -> str:
    """The last part of an IRI; whole IRIs are in the response, and leave no room for the evidence."""
    return re.split(r"[/#]", iri.rstrip("/#"))[-1]
