"""The scrape targets of a local cluster, in the form of Prometheus' `file_sd_configs`.

`manage.py cluster status --json` in, JSON out: a group for each process that has a /metrics, labelled with its name
(`process`), its role and the shard that it works for (`of_shard`; the metrics themselves have a `shard`).
"""

from __future__ import annotations

import json
import sys
from typing import Any


def targets(status: dict[str, Any]) -> list[dict[str, Any]]:
    """One group for each process with a `metrics_port`."""
    return [_group(process) for process in status["processes"] if process["metrics_port"]]


def _group(process: dict[str, Any]) -> dict[str, Any]:
    labels = {"process": process["name"], "role": process["role"]}
    if process["shard"] is not None:
        labels["of_shard"] = str(process["shard"])
    return {"targets": [f"127.0.0.1:{process['metrics_port']}"], "labels": labels}


if __name__ == "__main__":
    json.dump(targets(json.load(sys.stdin)), sys.stdout, indent=2)
