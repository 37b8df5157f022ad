"""Metrics as Prometheus reads them: counted right, over one process and several, and all that the dashboard asks."""

import asyncio
import dataclasses
import json
import os
import re
import runpy
import signal
import urllib.request
from pathlib import Path

import grpc
import pytest
from processes import ServeProcess
from prometheus_client.parser import text_string_to_metric_families
from serving import TEXTS, until

from groundwire.bundle import Bundle
from groundwire.server.app import BackgroundServer
from groundwire.server.client import Client, RemoteError
from groundwire.server.config import ServerConfig
from groundwire.server.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
PREDICT = ("groundwire.v1.PredictionService", "Predict")


def scrape(address: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Sample name -> label values, in order of the labels' names -> value."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as response:
        text = response.read().decode()
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[key] = sample.value
    return found


def calls(samples, method: str, code: str) -> float:
    return sum(
        value
        for (label_code, label_method, _), value in samples.get("groundwire_requests_total", {}).items()
        if (label_code, label_method) == (code, method)
    )


def test_everything_is_counted(config: ServerConfig) -> None:
    measured = dataclasses.replace(config, metrics="127.0.0.1:0")
    with BackgroundServer(measured) as server, Client(server.address) as client:
        predictions = [*client.predict(TEXTS).predictions, *client.predict(TEXTS[:1]).predictions]
        with pytest.raises(RemoteError):
            client.predict([" "])
        with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary("/made.up/Name")(b"", timeout=60)
        # A refusal is on its way to the client before it is counted.
        asyncio.run(until(lambda: calls(scrape(server.metrics_address), "Predict", "INVALID_ARGUMENT") == 1))
        samples = scrape(server.metrics_address)
    assert calls(samples, "Predict", "OK") == 2
    assert "made.up" not in str(samples)
    assert samples["groundwire_request_seconds_count"][PREDICT[::-1]] == 3
    stages = samples["groundwire_stage_seconds_count"]
    assert stages == {("tiny", stage): 2 for stage in ("ground", "encode", "queue", "infer", "decide")}
    assert all(samples["groundwire_stage_seconds_sum"].values())
    total = sum(samples["groundwire_stage_seconds_sum"].values())
    assert total <= sum(samples["groundwire_request_seconds_sum"].values())
    assert samples["groundwire_batch_rows_sum"][("tiny",)] == len(predictions)
    assert samples["groundwire_tokens_total"][("tiny",)] > 3 * len(predictions)
    assert samples["groundwire_queue_rows"][("tiny",)] == 0
    abstained = [prediction for prediction in predictions if prediction.abstain_reasons]
    decided = samples["groundwire_predictions_total"]
    assert decided == {("abstain", "tiny"): len(abstained), ("accept", "tiny"): len(predictions) - len(abstained)}
    reasons = sum(len(prediction.abstain_reasons) for prediction in predictions)
    assert sum(samples["groundwire_abstentions_total"].values()) == reasons > 0
    coverage = sum(prediction.uncertainty.knowledge.coverage for prediction in predictions)
    assert samples["groundwire_coverage_sum"][("tiny",)] == pytest.approx(coverage)


def test_workers_add_up_and_a_killed_one_keeps_its_counts(tiny: Bundle, graph) -> None:
    with ServeProcess(tiny.path, graph, "--workers", "2", "--metrics", "127.0.0.1:0") as server:
        [event] = server.wait_for("metrics")
        workers = [event["worker"] for event in server.wait_for("worker ready", 2)]
        # Connections are spread by the kernel: with so many, both workers get some but for a chance of 1 in 2,000.
        for _ in range(12):
            with Client(server.address) as client:
                client.predict(TEXTS[:2])
        assert calls(scrape(event["address"]), "Predict", "OK") == 12
        os.kill(workers[0], signal.SIGKILL)
        server.wait_for("worker ready", 3)
        samples = scrape(event["address"])
        assert calls(samples, "Predict", "OK") == 12
        assert samples["groundwire_batch_rows_sum"][("tiny",)] == 24
        assert samples["groundwire_queue_rows"][("tiny",)] == 0


def test_metrics_are_off_unless_asked_for_and_an_address_in_use_is_refused(
    config: ServerConfig, server: BackgroundServer
) -> None:
    assert server.metrics_address == ""
    measured = dataclasses.replace(config, metrics="127.0.0.1:0")
    with BackgroundServer(measured) as first:
        again = dataclasses.replace(config, metrics=first.metrics_address)
        with pytest.raises(ConfigurationError, match="--metrics"), BackgroundServer(again):
            pass


def test_the_dashboard_asks_for_metrics_that_exist(config: ServerConfig) -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "make_dashboard.py"))
    committed = json.loads((ROOT / "docs" / "grafana-dashboard.json").read_text())
    assert committed == made["dashboard"](), "run scripts/make_dashboard.py"
    asked = {
        name
        for panel in committed["panels"]
        for target in panel["targets"]
        for name in re.findall(r"groundwire_\w+", target["expr"])
    }
    with BackgroundServer(dataclasses.replace(config, metrics="127.0.0.1:0")) as server:
        with Client(server.address) as client:
            client.predict(TEXTS)
        told = set(scrape(server.metrics_address))
    assert asked
    assert asked <= told
    families = {re.sub(r"_(total|sum|count|bucket|created)$", "", name) for name in told if "groundwire" in name}
    assert families == {re.sub(r"_(total|sum|count|bucket)$", "", name) for name in asked}
