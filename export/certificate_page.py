"""The certificate as one HTML page with plots, readable without a network."""

import html
import io
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np

from groundwire.export.certify import StageFigures
from groundwire.v1 import bundle_pb2

matplotlib.use("svg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .3rem .7rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } tr + tr { border-top: 1px solid #d0d7de; }
small { color: #57606a; } .plots { display: flex; flex-wrap: wrap; gap: 1rem; } svg { max-width: 100%; height: auto; }
"""


def certificate_page(
    manifest: bundle_pb2.BundleManifest, certificate: bundle_pb2.Certificate, figures: Sequence[StageFigures]
) -> str:
    """Render the page. `figures` are those of the certificate's stages, in the same order."""
    stages = certificate.stages
    names = "".join(f"<th>{html.escape(stage.name)}</th>" for stage in stages)
    rows = [
        ("Accuracy, clean", [_share(stage.clean_accuracy) for stage in stages]),
        *(
            (f"Accuracy, {r.attack.upper()}-{r.steps} {r.norm} ε = {r.epsilon:g}",
             [_share(stage.robust_accuracy[n].accuracy) for stage in stages])
            for n, r in enumerate(stages[0].robust_accuracy)
        ),
        ("Expected calibration error", [f"{stage.ece:.3f}" for stage in stages]),
        ("Brier score", [f"{stage.brier:.3f}" for stage in stages]),
        ("Negative log likelihood (nats)", [f"{stage.nll:.3f}" for stage in stages]),
        ("Area under risk-coverage curve", [f"{stage.aurc:.3f}" for stage in stages]),
        *(
            (f"Conformal coverage at {c.target:g} (set size)",
             [f"{_share(stage.conformal[n].coverage)} ({stage.conformal[n].set_size:.2f})" for stage in stages])
            for n, c in enumerate(stages[0].conformal)
        ),
        ("AUROC, shuffled words", [f"{stage.ood_auroc:.3f}" for stage in stages]),
        ("Size (MB)", [f"{stage.size_bytes / 1e6:.1f}" for stage in stages]),
        ("Latency p50 / p99 (ms, one row, one thread)",
         [f"{s.latency.p50_ms:.1f} / {s.latency.p99_ms:.1f} at {s.latency.tokens} tokens" for s in stages]),
    ]  # fmt: skip
    body = "".join(
        f"<tr><td>{html.escape(title)}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for title, cells in rows
    )
    margin = manifest.robust_margin
    took = (
        f"At a margin of {margin.margin:.2f} or more, {margin.share:.1%} of the calibration inputs kept their label "
        f"under {margin.attack.upper()}-{margin.steps} ({margin.norm}, ε = {margin.epsilon:g} on the word embeddings)."
        if margin.margin <= 1 else "No margin was large enough to withstand the attack."
    )  # fmt: skip
    plots = "".join(_svg(draw, figures) for draw in (_reliability, _robustness, _risk))
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(manifest.name)}: certificate</title>"
        f"<style>{_STYLE}</style><h1>{html.escape(manifest.name)}</h1>"
        f"<p>Version {html.escape(manifest.version)}. Each stage was measured on its own artifact; the last one is "
        f"served. Shares carry their 95 % Wilson interval.</p>"
        f"<table><tr><th></th>{names}</tr>{body}</table><p>{took}</p><div class='plots'>{plots}</div>"
        f"<p><small>{html.escape(certificate.hardware)}. {html.escape(certificate.created)}. Perturbed embeddings were "
        f"found with the gradients of the trained model, on logits before temperature, and run through each artifact. "
        f"Robust accuracy is an upper bound: a stronger attack may find more.</small></p></html>"
    )


def _share(p: bundle_pb2.Proportion) -> str:
    return f"{p.value:.1%} <small>[{p.low:.1%}, {p.high:.1%}]</small>"


def _svg(draw: Callable[[Axes, Sequence[StageFigures]], None], figures: Sequence[StageFigures]) -> str:
    figure, axes = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
    draw(axes, figures)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _reliability(axes: Axes, figures: Sequence[StageFigures]) -> None:
    edges = np.linspace(0, 1, 11)
    for f in figures:
        confidence = f.probabilities.max(axis=1)
        right = f.probabilities.argmax(axis=1) == f.labels
        index = np.clip(np.digitize(confidence, edges) - 1, 0, 9)
        used = [b for b in range(10) if (index == b).any()]
        axes.plot([confidence[index == b].mean() for b in used], [right[index == b].mean() for b in used], "o-",
                  label=f.stage.name, markersize=3)  # fmt: skip
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.set(title="Reliability", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize=8)


def _robustness(axes: Axes, figures: Sequence[StageFigures]) -> None:
    for f in figures:
        points = sorted((r.epsilon, r.accuracy.value) for r in f.stage.robust_accuracy)
        axes.plot([0.0, *(e for e, _ in points)], [f.stage.clean_accuracy.value, *(a for _, a in points)], "o-",
                  label=f.stage.name, markersize=3)  # fmt: skip
    axes.set(title="Accuracy under attack", xlabel="ε (word embeddings)", ylabel="accuracy", ylim=(0, 1))
    axes.legend(fontsize=8)


def _risk(axes: Axes, figures: Sequence[StageFigures]) -> None:
    for f in figures:
        order = np.argsort(-f.probabilities.max(axis=1), kind="stable")
        wrong = (f.probabilities.argmax(axis=1) != f.labels)[order]
        n = np.arange(1, len(wrong) + 1)
        axes.plot(n / len(wrong), np.cumsum(wrong) / n, label=f.stage.name)
    axes.set(title="Risk and coverage", xlabel="share answered, most confident first", ylabel="error", xlim=(0, 1))
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
