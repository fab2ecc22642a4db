"""The scrape targets of a cluster, in the form of Prometheus' `file_sd_configs`.

The supervisor writes them to `monitoring/targets.json` in the cluster's directory at every change, so that a Prometheus
follows scaling and upgrades. Pure, but for `write`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from .layout import Directory, write_private


def targets(processes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One group for each of these rows with a `metrics_port`, labelled with its name (`process`), its role and the shard
    that it works for (`of_shard`; the metrics themselves have a `shard`)."""
    return [_group(process) for process in processes if process["metrics_port"]]


def write(directory: Directory, processes: Iterable[Mapping[str, Any]]) -> None:
    """Write the file, if it is to change. Raises `OSError`."""
    path = directory.monitoring / "targets.json"
    text = json.dumps(targets(processes), indent=2) + "\n"
    if not path.exists() or path.read_text() != text:
        write_private(path, text)


def _group(process: Mapping[str, Any]) -> dict[str, Any]:
    labels = {"process": process["name"], "role": process["role"]}
    if process["shard"] is not None:
        labels["of_shard"] = str(process["shard"])
    return {"targets": [f"127.0.0.1:{process['metrics_port']}"], "labels": labels}
