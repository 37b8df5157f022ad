"""The robustness report as one HTML page with plots, readable without a network."""

import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from groundwire.export.robustness import Report, Share

matplotlib.use("svg")

from matplotlib import pyplot as plt

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; }
tr + tr { border-top: 1px solid #d0d7de; } small { color: #57606a; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
svg { max-width: 100%; height: auto; } .pass { color: #116329; } .fail { color: #a40e26; font-weight: 600; }
"""


def robustness_page(reports: Sequence[Report], title: str, provenance: Mapping[str, Any]) -> str:
    """Render the page: a table, the masking checks, and one plot for each kind of curve."""
    attacks = list(dict.fromkeys(attack for report in reports for attack in report.attacks))
    rows = [
        ("Threat", [html.escape(r.threat) for r in reports]),
        ("Accuracy, clean", [_share(r.clean) for r in reports]),
        *((f"Accuracy, {a}", [_share(r.attacks[a]) if a in r.attacks else "" for r in reports]) for a in attacks),
        ("Stands under every attack", [f"<b>{_share(r.worst_case)}</b>" for r in reports]),
        ("Predictions that some attack changes", [_share(r.changed) for r in reports]),
        ("… to a label of probability 0.9 or more", [_share(r.changed_confident) for r in reports]),
        ("Masking checks", [_verdict(r) for r in reports]),
    ]
    head = "".join(f"<th>{html.escape(r.name)}</th>" for r in reports)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>" for name, cells in rows
    )
    checks = "".join(
        f"<h2>Masking checks: {html.escape(r.name)}</h2><table>{''.join(map(_check, r.checks))}</table>"
        for r in reports
        if r.checks
    )
    names = list(dict.fromkeys(name for r in reports for name in r.curves))
    plots = "".join(_plot(name, reports) for name in names)
    facts = "; ".join(f"{html.escape(str(k))}: {html.escape(str(v))}" for k, v in provenance.items())
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"
        f"<p>Shares carry their 95 % Wilson interval. Accuracy under attack is an upper bound: a stronger attack may "
        f"find more. It is to be believed only where all masking checks pass.</p>"
        f"<table><tr><th></th>{head}</tr>{body}</table><div class='plots'>{plots}</div>{checks}"
        f"<p><small>{facts}</small></p></html>"
    )


def _share(share: Share) -> str:
    return f"{share.value:.1%} <small>[{share.low:.1%}, {share.high:.1%}] of {share.examples}</small>"


def _verdict(report: Report) -> str:
    if not report.checks:
        return "<small>black-box: none apply</small>"
    passed = sum(check.passed for check in report.checks)
    kind = "pass" if report.believable else "fail"
    return f"<span class='{kind}'>{passed} of {len(report.checks)} pass</span>"


def _check(check: Any) -> str:
    numbers = ", ".join(f"{html.escape(name)}: {value:.1%}" for name, value in check.numbers.items())
    kind = "pass" if check.passed else "fail"
    return (
        f"<tr><td class='{kind}'>{kind}</td><td>{html.escape(check.name)}</td>"
        f"<td>{numbers}<br><small>asks: {html.escape(check.asks)}</small></td></tr>"
    )


def _plot(name: str, reports: Sequence[Report]) -> str:
    figure, axes = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
    for report in reports:
        if name in report.curves:
            x, y = zip(*report.curves[name], strict=True)
            axes.plot(x, y, "o-", markersize=3, label=report.name)
    axes.set(xlabel=name, ylabel="accuracy", ylim=(0, 1))
    axes.legend(fontsize=8)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]
