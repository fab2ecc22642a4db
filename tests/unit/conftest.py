"""Every test here is a part of `make check`, and none may need the cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster_plugin import needs_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            if needs_cluster(item):
                raise pytest.UsageError(f"{item.nodeid} uses the cluster: it belongs into tests/cluster")
            item.add_marker("smoke")
