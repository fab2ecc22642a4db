"""Grafana's dashboards of Tally. `python -m monitoring.dashboards` writes them to monitoring/grafana/dashboards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

HOME = Path(__file__).parent / "grafana" / "dashboards"
COLUMNS = 24  # of Grafana's grid
HEIGHT = 8
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LINK = {
    "type": "dashboards",
    "title": "Tally",
    "tooltip": "The other dashboards of Tally",
    "tags": ["tally"],
    "icon": "external link",
    "asDropdown": True,
    "includeVars": True,  # the data source that was chosen
    "keepTime": True,
    "targetBlank": False,
}  # Grafana's types want every field


class Panel(NamedTuple):
    """Lines over time. `unit` is one of Grafana's, `legend` a template of labels, `help` what stands behind the (i)."""

    title: str
    unit: str
    expression: str
    legend: str
    help: str


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


REQUESTS = Panel(
    "Requests a second",
    "reqps",
    rate("tally_requests_total", "status"),
    "{{status}}",
    "What API processes have answered, by status. nginx' own refusals are not in it.",
)
DURABLE = Panel(
    "Increments a second that are durable",
    "ops",
    rate("tally_increments_accepted_total"),
    "accepted",
    "Increments, and events of likes, that are in the journal.",
)
CONVERGENCE = Panel(
    "p99 from 202 to the replicas",
    "s",
    p99("tally_convergence_seconds", "shard", '{queue="fresh"}'),
    "shard {{shard}}",
    "Of batches that are not in a spill queue.",
)
AGE = Panel(
    "Oldest entry of the journal",
    "s",
    greatest("tally_journal_age_seconds", "shard"),
    "shard {{shard}}",
    "Grows while a shard's batches are not applied or not replicated. The alert is at 60 s.",
)
COPIES = Panel(
    "Copies of each shard",
    "short",
    greatest("tally_shard_copies", "shard"),
    "shard {{shard}}",
    "The primary and the replicas that stream from it. 0 while no primary answers.",
)
REFUSED = Panel(
    "Writes refused with 503",
    "reqps",
    rate("tally_writes_refused_total", "reason"),
    "{{reason}}",
    "Writes that the journal could not take, by the reason. The caller is asked to come again.",
)
LIMITED = Panel(
    "Requests over their caller's limits",
    "reqps",
    rate("tally_limited_total", "limit"),
    "{{limit}}",
    "Requests refused with 429, by the limit.",
)

ABOUT = {
    "overview": "Whether all is well. Look here first, and when an alert comes.",
    "api": "What callers ask and get. Look here when calls are slow or fail.",
    "queues": "From the journal to the rows. Look here when counts are late.",
    "shards": "Servers of PostgreSQL and their copies. Look here after a failover, or when a replica is missing or lags.",
    "likes": "Likes and the copy by user. Look here when likes are slow, or are late in a user's own list.",
    "overload": "What is refused, limited or counted later. Look here when callers see 429 or 503.",
}  # what each dashboard shows, and when to look

DASHBOARDS: dict[str, tuple[Panel, ...]] = {
    "overview": (
        REQUESTS,
        DURABLE,
        CONVERGENCE,
        AGE,
        COPIES,
        REFUSED,
        Panel(
            "Processes that Prometheus does not reach",
            "short",
            "sum by (role) (up == bool 0)",
            "{{role}}",
            "By role. Above 0, a process is down or its address is wrong.",
        ),
        Panel(
            "Room on disks",
            "percentunit",
            "min by (server) (tally_disk_free_bytes / tally_disk_total_bytes)",
            "{{server}}",
            "Free share of each server's fullest disk. The alert is below 15 %.",
        ),
    ),
    "api": (
        Panel(
            "Requests a second by call",
            "reqps",
            rate("tally_requests_total", "method, route"),
            "{{method}} {{route}}",
            "By the pattern of the URL. `unknown` is a URL that does not exist, or was refused at once.",
        ),
        REQUESTS,
        Panel(
            "p99 by call",
            "s",
            p99("tally_request_seconds", "method, route"),
            "{{method}} {{route}}",
            "From a request's body to its answer, without nginx and the network.",
        ),
        Panel(
            "Problem documents",
            "reqps",
            rate("tally_problems_total", "status, problem"),
            "{{status}} {{problem}}",
            "Answers that are errors, by status and kind.",
        ),
        Panel(
            "Hits of the cache",
            "percentunit",
            f"1 - {rate('tally_cache_missed_total')} / {rate('tally_cache_looked_up_total')}",
            "hits",
            "Share of the keys of reads that the cache had.",
        ),
        Panel(
            "Keys that shards were asked for",
            "ops",
            rate("tally_shard_queried_keys_total", "source"),
            "{{source}}",
            "What the cache did not spare the databases, by who asked.",
        ),
        Panel(
            "Connections",
            "short",
            "sum by (database, state) (tally_pool_connections)",
            "{{database}} {{state}}",
            "Of the pools of all processes, in use and idle.",
        ),
        Panel(
            "Queries that wait for a connection",
            "short",
            "sum by (database) (tally_pool_waiting)",
            "{{database}}",
            "Above 0 for long, the pools are too small or queries too slow.",
        ),
        Panel(
            "Connections of nginx",
            "short",
            "sum(nginx_connections_active)",
            "open",
            "Of clients, idle ones too. Only in production: the local cluster's nginx has no figures of its own.",
        ),
        Panel(
            "Requests a second at nginx",
            "reqps",
            rate("nginx_http_requests_total"),
            "requests",
            "With those that nginx refuses itself, static files and pages. Only in production.",
        ),
    ),
    "queues": (
        Panel(
            "Batches in the journal",
            "short",
            greatest("tally_journal_entries", "shard"),
            "shard {{shard}}",
            "The depth of each shard's queue. The alert is at 10000.",
        ),
        AGE,
        Panel(
            "Increments that wait",
            "short",
            greatest("tally_backlog_increments", "shard, queue"),
            "{{shard}} {{queue}}",
            "Increments in the journal by queue: fresh, excess and stale.",
        ),
        Panel(
            "Oldest of each queue",
            "s",
            greatest("tally_backlog_age_seconds", "shard, queue"),
            "{{shard}} {{queue}}",
            "Excess and stale may be old after a peak. Fresh may not.",
        ),
        Panel(
            "Batches applied",
            "ops",
            rate("tally_batches_applied_total", "shard"),
            "shard {{shard}}",
            "Batches whose transaction was committed on the primary.",
        ),
        Panel(
            "Batches completed",
            "ops",
            rate("tally_batches_completed_total", "shard"),
            "shard {{shard}}",
            "Batches that enough replicas have, and that left the journal.",
        ),
        Panel(
            "p99 of a transaction",
            "s",
            p99("tally_apply_seconds", "shard"),
            "shard {{shard}}",
            "One apply transaction on the primary.",
        ),
        Panel(
            "Increments for each row that is written",
            "short",
            f"{rate('tally_increments_accepted_total')} / {rate('tally_rows_written_total')}",
            "folded",
            "How many increments are folded into one write. Hot counters make it high.",
        ),
        Panel(
            "Oldest batch of each lane",
            "s",
            greatest("tally_lane_age_seconds", "shard, lane"),
            "{{shard}}.{{lane}}",
            "One lane that is older than the others waits for its worker, or for a lock.",
        ),
        Panel(
            "Lanes of each worker",
            "short",
            "sum by (worker) (max by (shard, lane, worker) (tally_lane_worker))",
            "{{worker}}",
            "Who applies what now. Empty while nothing is applied.",
        ),
        Panel(
            "Batches not yet replicated",
            "short",
            "sum by (shard) (tally_batches_uncompleted)",
            "shard {{shard}}",
            "Applied, and not yet flushed by the replicas required.",
        ),
        Panel(
            "Transactions repeated",
            "ops",
            rate("tally_apply_retries_total", "shard"),
            "shard {{shard}}",
            "Apply transactions that failed and were tried again.",
        ),
        Panel(
            "Tasks that the broker did not take",
            "ops",
            rate("tally_batches_undispatched_total", "shard"),
            "{{shard}}",
            "Workers find these lanes by themselves, a little later.",
        ),
        Panel(
            "Batches set aside",
            "short",
            greatest("tally_batches_set_aside_kept", "shard"),
            "shard {{shard}}",
            "Batches that could not be decoded or applied. An operator decides on them.",
        ),
    ),
    "shards": (
        COPIES,
        Panel(
            "Copies of the journal",
            "short",
            greatest("tally_journal_copies"),
            "copies",
            "The journal's Redis and its replicas. 0 while it does not answer.",
        ),
        Panel(
            "Lag of replicas",
            "s",
            greatest("tally_replica_lag_seconds", "shard, node"),
            "{{node}}",
            "How long each replica took to replay what it replayed last.",
        ),
        Panel(
            "WAL not replayed",
            "bytes",
            greatest("tally_replica_lag_bytes", "shard, node"),
            "{{node}}",
            "WAL that each replica has still to replay.",
        ),
        Panel(
            "Primary by Patroni",
            "short",
            "max by (scope, name) (patroni_primary)",
            "{{scope}} {{name}}",
            "1 for the server that is primary. A change is a failover or a switchover.",
        ),
        Panel(
            "Degraded",
            "bool_yes_no",
            greatest("tally_shard_degraded", "shard"),
            "shard {{shard}}",
            "Yes while the journal lets batches go that too few replicas have.",
        ),
        Panel(
            "Replicas copied again",
            "short",
            "sum by (node) (increase(tally_replica_reinitialised_total[1h]))",
            "{{node}}",
            "In the last hour: a replica that did not follow, or differed from its primary.",
        ),
        Panel(
            "WAL not archived",
            "short",
            greatest("tally_wal_unarchived_files", "shard, node"),
            "{{node}}",
            "Files that wait for the archive. Without an archive there is no line.",
        ),
    ),
    "likes": (
        Panel(
            "Requests of likes",
            "reqps",
            rate("tally_requests_total", "method, status", '{route=~"/v1/likes.*"}'),
            "{{method}} {{status}}",
            "By method and status. They are in the requests of the other dashboards as well.",
        ),
        Panel(
            "p99 of likes",
            "s",
            p99("tally_request_seconds", "method, route", '{route=~"/v1/likes.*"}'),
            "{{method}} {{route}}",
            "From a request's body to its answer, without nginx and the network.",
        ),
        Panel(
            "p99 until it is shown to the user",
            "s",
            p99("tally_likes_copy_lag_seconds", "shard"),
            "shard {{shard}}",
            "Age of the oldest event in each transaction of the copy by user, at its commit.",
        ),
        Panel(
            "Events applied",
            "ops",
            rate("tally_likes_events_total", "shard, action"),
            "shard {{shard}} {{action}}",
            "Events of likes by shard and action, late ones and repeats among them.",
        ),
        Panel(
            "Repeats, not written again",
            "ops",
            rate("tally_likes_repeats_total"),
            "repeats",
            "Events that were known already. They cost no row.",
        ),
    ),
    "overload": (
        REFUSED,
        LIMITED,
        Panel(
            "Counters refused with 429",
            "ops",
            rate("tally_keys_limited_total", "rule"),
            "{{rule}}",
            "Keys of writes that were refused, by the limit.",
        ),
        Panel(
            "Increments spilled",
            "ops",
            rate("tally_increments_spilled_total", "shard"),
            "shard {{shard}}",
            "Increments accepted into the excess queues: they are counted later.",
        ),
        Panel(
            "Batches moved to the stale queue",
            "ops",
            rate("tally_batches_deferred_total", "shard"),
            "shard {{shard}}",
            "Batches that were too old when a worker came to them.",
        ),
        Panel(
            "Requests let through unlimited",
            "reqps",
            rate("tally_limits_let_through_total"),
            "let through",
            "No limit was asked, as its Redis did not answer.",
        ),
        Panel(
            "Breakers that are open",
            "short",
            greatest("tally_breaker_state", "component", '{state="open"}'),
            "{{component}}",
            "1 while calls to this component fail at once.",
        ),
        Panel(
            "Failures of components",
            "ops",
            rate("tally_component_failures_total", "component"),
            "{{component}}",
            "Calls that failed for the connection's sake, by component.",
        ),
    ),
}  # by name; the address in Grafana is /d/tally-NAME


def dashboard(name: str) -> dict[str, Any]:
    """In Grafana's JSON model. Two panels a row."""
    return {
        "uid": f"tally-{name}",
        "title": f"Tally: {name}",
        "description": ABOUT[name],
        "tags": ["tally"],
        "schemaVersion": 39,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "links": [LINK],
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


def markdown() -> str:
    """A section for each dashboard with a table of its panels, for docs/dashboards.md."""
    return "\n".join(_section(name, panels) for name, panels in DASHBOARDS.items())


def _section(name: str, panels: tuple[Panel, ...]) -> str:
    rows = "".join(f"| {panel.title} | {panel.help} |\n" for panel in panels)
    return f"### {name}\n\n{ABOUT[name]}\n\n| panel | meaning |\n| --- | --- |\n{rows}"


def files() -> dict[Path, str]:
    """What stands in each file."""
    return {HOME / f"{name}.json": json.dumps(dashboard(name), indent=2) + "\n" for name in DASHBOARDS}


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
