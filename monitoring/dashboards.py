"""Grafana's dashboards of Tally. `python -m monitoring.dashboards` writes them to monitoring/grafana/dashboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent / "grafana" / "dashboards"
COLUMNS = 24  # of Grafana's grid
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """Lines over time. `unit` is one of Grafana's, `legend` a template of labels."""

    title: str
    unit: str
    expression: str
    legend: str = ""
    help: str = ""


def rate(metric: str, by: str = "", where: str = "") -> str:
    """Of a counter, a second, over all processes."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[$__rate_interval]))"


def p99(metric: str, by: str = "", where: str = "") -> str:
    """Of a histogram, over all processes."""
    labels = ", ".join(["le", by] if by else ["le"])
    return f"histogram_quantile(0.99, sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval])))"


def greatest(metric: str, by: str = "", where: str = "") -> str:
    """Of a gauge that each process has alike."""
    return f"max{f' by ({by})' if by else ''} ({metric}{where})"


REQUESTS = Panel("Requests a second", "reqps", rate("tally_requests_total", "status"), "{{status}}")
DURABLE = Panel("Increments a second that are durable", "ops", rate("tally_increments_accepted_total"), "accepted")
CONVERGENCE = Panel(
    "p99 from 202 to the replicas",
    "s",
    p99("tally_convergence_seconds", "shard", '{queue="fresh"}'),
    "shard {{shard}}",
    "Of batches that are not in a spill queue.",
)
AGE = Panel("Oldest entry of the journal", "s", greatest("tally_journal_age_seconds", "shard"), "shard {{shard}}")
COPIES = Panel("Copies of each shard", "short", greatest("tally_shard_copies", "shard"), "shard {{shard}}")
REFUSED = Panel("Writes refused with 503", "reqps", rate("tally_writes_refused_total", "reason"), "{{reason}}")
LIMITED = Panel("Requests over their caller's limits", "reqps", rate("tally_limited_total", "limit"), "{{limit}}")

DASHBOARDS: dict[str, tuple[Panel, ...]] = {
    "overview": (
        REQUESTS,
        DURABLE,
        CONVERGENCE,
        AGE,
        COPIES,
        REFUSED,
        Panel("Processes that Prometheus does not reach", "short", "sum by (role) (up == bool 0)", "{{role}}"),
        Panel(
            "Room on disks",
            "percentunit",
            "min by (server) (tally_disk_free_bytes / tally_disk_total_bytes)",
            "{{server}}",
        ),
    ),
    "api": (
        Panel(
            "Requests a second by call", "reqps", rate("tally_requests_total", "method, route"), "{{method}} {{route}}"
        ),
        REQUESTS,
        Panel("p99 by call", "s", p99("tally_request_seconds", "method, route"), "{{method}} {{route}}"),
        Panel("Problem documents", "reqps", rate("tally_problems_total", "status, problem"), "{{status}} {{problem}}"),
        Panel(
            "Hits of the cache",
            "percentunit",
            f"1 - {rate('tally_cache_missed_total')} / {rate('tally_cache_looked_up_total')}",
            "hits",
        ),
        Panel("Keys that shards were asked for", "ops", rate("tally_shard_queried_keys_total", "source"), "{{source}}"),
        Panel("Connections", "short", "sum by (database, state) (tally_pool_connections)", "{{database}} {{state}}"),
        Panel("Queries that wait for a connection", "short", "sum by (database) (tally_pool_waiting)", "{{database}}"),
    ),
    "queues": (
        Panel("Batches in the journal", "short", greatest("tally_journal_entries", "shard"), "shard {{shard}}"),
        AGE,
        Panel(
            "Increments that wait", "short", greatest("tally_backlog_increments", "shard, queue"), "{{shard}} {{queue}}"
        ),
        Panel(
            "Oldest of each queue", "s", greatest("tally_backlog_age_seconds", "shard, queue"), "{{shard}} {{queue}}"
        ),
        Panel("Batches applied", "ops", rate("tally_batches_applied_total", "shard"), "shard {{shard}}"),
        Panel("Batches completed", "ops", rate("tally_batches_completed_total", "shard"), "shard {{shard}}"),
        Panel("p99 of a transaction", "s", p99("tally_apply_seconds", "shard"), "shard {{shard}}"),
        Panel(
            "Increments for each row that is written",
            "short",
            f"{rate('tally_increments_accepted_total')} / {rate('tally_rows_written_total')}",
            "folded",
        ),
        Panel(
            "Oldest batch of each lane", "s", greatest("tally_lane_age_seconds", "shard, lane"), "{{shard}}.{{lane}}"
        ),
        Panel(
            "Lanes of each worker",
            "short",
            "sum by (worker) (max by (shard, lane, worker) (tally_lane_worker))",
            "{{worker}}",
        ),
        Panel("Batches not yet replicated", "short", "sum by (shard) (tally_batches_uncompleted)", "shard {{shard}}"),
        Panel("Transactions repeated", "ops", rate("tally_apply_retries_total", "shard"), "shard {{shard}}"),
        Panel(
            "Tasks that the broker did not take", "ops", rate("tally_batches_undispatched_total", "shard"), "{{shard}}"
        ),
        Panel("Batches set aside", "short", greatest("tally_batches_set_aside_kept", "shard"), "shard {{shard}}"),
    ),
    "shards": (
        COPIES,
        Panel("Copies of the journal", "short", greatest("tally_journal_copies"), "copies"),
        Panel("Lag of replicas", "s", greatest("tally_replica_lag_seconds", "shard, node"), "{{node}}"),
        Panel("WAL not replayed", "bytes", greatest("tally_replica_lag_bytes", "shard, node"), "{{node}}"),
        Panel("Primary by Patroni", "short", "max by (scope, name) (patroni_primary)", "{{scope}} {{name}}"),
        Panel("Degraded", "bool_yes_no", greatest("tally_shard_degraded", "shard"), "shard {{shard}}"),
        Panel(
            "Replicas copied again",
            "short",
            "sum by (node) (increase(tally_replica_reinitialised_total[1h]))",
            "{{node}}",
        ),
        Panel("WAL not archived", "short", greatest("tally_wal_unarchived_files", "shard, node"), "{{node}}"),
    ),
    "likes": (
        Panel(
            "Requests of likes",
            "reqps",
            rate("tally_requests_total", "method, status", '{route=~"/v1/likes.*"}'),
            "{{method}} {{status}}",
        ),
        Panel(
            "p99 of likes",
            "s",
            p99("tally_request_seconds", "method, route", '{route=~"/v1/likes.*"}'),
            "{{method}} {{route}}",
        ),
        Panel(
            "p99 until it is shown to the user", "s", p99("tally_likes_copy_lag_seconds", "shard"), "shard {{shard}}"
        ),
        Panel("Events applied", "ops", rate("tally_likes_events_total", "shard, action"), "shard {{shard}} {{action}}"),
        Panel("Repeats, not written again", "ops", rate("tally_likes_repeats_total"), "repeats"),
    ),
    "overload": (
        REFUSED,
        LIMITED,
        Panel("Counters refused with 429", "ops", rate("tally_keys_limited_total", "rule"), "{{rule}}"),
        Panel("Increments spilled", "ops", rate("tally_increments_spilled_total", "shard"), "shard {{shard}}"),
        Panel(
            "Batches moved to the stale queue", "ops", rate("tally_batches_deferred_total", "shard"), "shard {{shard}}"
        ),
        Panel("Requests let through unlimited", "reqps", rate("tally_limits_let_through_total"), "let through"),
        Panel(
            "Breakers that are open",
            "short",
            greatest("tally_breaker_state", "component", '{state="open"}'),
            "{{component}}",
        ),
        Panel("Failures of components", "ops", rate("tally_component_failures_total", "component"), "{{component}}"),
    ),
}  # by name; the address in Grafana is /d/tally-NAME


def dashboard(name: str) -> dict[str, Any]:
    """In Grafana's JSON model. Two panels a row."""
    return {
        "uid": f"tally-{name}",
        "title": f"Tally: {name}",
        "tags": ["tally"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [{"type": "dashboards", "title": "Tally", "tags": ["tally"], "asDropdown": True, "keepTime": True}],
        "templating": {
            "list": [{"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(DASHBOARDS[name])],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    width = COLUMNS // 2
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.help,
        "datasource": SOURCE,
        "gridPos": {"x": number % 2 * width, "y": number // 2 * HEIGHT, "w": width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": "A", "datasource": SOURCE, "expr": panel.expression, "legendFormat": panel.legend, "range": True}
        ],
    }


def files() -> dict[Path, str]:
    """What stands in each file."""
    return {HOME / f"{name}.json": json.dumps(dashboard(name), indent=2) + "\n" for name in DASHBOARDS}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
