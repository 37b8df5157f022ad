"""Writes docs/grafana-dashboard.json: import it in Grafana and choose a Prometheus data source."""

import json
from pathlib import Path
from typing import Any

OUT = Path(__file__).parents[1] / "docs" / "grafana-dashboard.json"
WINDOW = "[$__rate_interval]"
SOURCE = {"type": "prometheus", "uid": "${source}"}


def rate(metric: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{WINDOW}))"


def quantile(q: float, metric: str, by: str) -> str:
    return f"histogram_quantile({q}, sum by ({by}, le) (rate({metric}_bucket{WINDOW})))"


# Title, unit, and queries with their legends.
PANELS: list[tuple[str, str, list[tuple[str, str]]]] = [
    (
        "Calls by status",
        "reqps",
        [(rate("groundwire_requests_total", "method, code"), "{{method}} {{code}}")],
    ),
    (
        "Call latency",
        "s",
        [(quantile(q, "groundwire_request_seconds", "method"), f"{{{{method}}}} p{q * 100:g}") for q in (0.5, 0.99)],
    ),
    (
        "Latency by stage, p99",
        "s",
        [(quantile(0.99, "groundwire_stage_seconds", "model, stage"), "{{model}} {{stage}}")],
    ),
    (
        "Where the time goes",
        "percentunit",
        [
            (
                f"{rate('groundwire_stage_seconds_sum', 'stage')} / ignoring (stage) group_left "
                f"sum(rate(groundwire_stage_seconds_sum{WINDOW}))",
                "{{stage}}",
            )
        ],
    ),
    ("Rows waiting", "short", [("sum by (model) (groundwire_queue_rows)", "{{model}}")]),
    (
        "Rows of a batch, mean",
        "short",
        [
            (
                f"{rate('groundwire_batch_rows_sum', 'model')} / {rate('groundwire_batch_rows_count', 'model')}",
                "{{model}}",
            )
        ],
    ),
    ("Tokens a second", "short", [(rate("groundwire_tokens_total", "model"), "{{model}}")]),
    ("Predictions by decision", "reqps", [(rate("groundwire_predictions_total", "decision"), "{{decision}}")]),
    ("Abstentions by reason", "reqps", [(rate("groundwire_abstentions_total", "reason"), "{{reason}}")]),
    (
        "Coverage by the graph, mean",
        "percentunit",
        [(f"{rate('groundwire_coverage_sum', 'model')} / {rate('groundwire_coverage_count', 'model')}", "{{model}}")],
    ),
    (
        "Versions of the graph, by processes that serve them",
        "short",
        [("sum by (source, version) (groundwire_graph_serving) > 0", "{{source}} {{version}}")],
    ),
    (
        "Reloads of the graph",
        "short",
        [
            (
                "sum by (source, outcome) (increase(groundwire_graph_reloads_total[$__rate_interval]))",
                "{{source}} {{outcome}}",
            )
        ],
    ),
]


def dashboard() -> dict[str, Any]:
    panels = []
    for index, (title, unit, queries) in enumerate(PANELS):
        panels.append(
            {
                "id": index + 1,
                "title": title,
                "type": "timeseries",
                "datasource": SOURCE,
                "gridPos": {"h": 8, "w": 12, "x": 12 * (index % 2), "y": 8 * (index // 2)},
                "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
                "targets": [
                    {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend}
                    for at, (query, legend) in enumerate(queries)
                ],
            }
        )
    return {
        "title": "Groundwire",
        "uid": "groundwire",
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {
            "list": [{"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": panels,
    }


if __name__ == "__main__":
    OUT.write_text(json.dumps(dashboard(), indent=1) + "\n", encoding="utf-8")
