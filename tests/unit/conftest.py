"""Every test here is a part of `make check`, and none may need the cluster."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.support.cluster_plugin import needs_cluster


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            if needs_cluster(item):
                raise pytest.UsageError(f"{item.nodeid} uses the cluster: it belongs into tests/cluster")
            item.add_marker("smoke")


@pytest.fixture
def logged() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The log lines that this process has written since the test began, as they would be on standard error."""
    (handler,) = (one for one in logging.getLogger().handlers if type(one) is logging.StreamHandler)
    before = handler.setStream(written := StringIO())
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    handler.setStream(before)
