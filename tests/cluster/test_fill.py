"""The fill of the counters' pages follows its setting, also where tables are there already."""

from __future__ import annotations

import pytest
from django.conf import settings

from counters.apply import fill
from tests.support.cluster import Cluster
from tests.support.shards import SHARD, rows

FILLS = "SELECT DISTINCT reloptions FROM pg_class WHERE relname ~ '^counter_[0-9]+$'"
OTHERS = "autovacuum_vacuum_scale_factor=0.05"


def test_the_fill_of_existing_tables_follows_the_setting(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fill.put_in_force(SHARD) == 0, "`migrate_all` has put it in force"
    with monkeypatch.context() as other:
        other.setattr(settings.TALLY, "counter_fillfactor", 70)
        try:
            assert (fill.put_in_force(SHARD), fill.put_in_force(SHARD)) == (16, 0)
            assert [set(options) for (options,) in rows(SHARD, FILLS)] == [{OTHERS, "fillfactor=70"}]
        finally:
            other.undo()
            assert "16 partitions fill new pages to 45 %" in cluster.command("migrate_all")
    assert [set(options) for (options,) in rows(SHARD, FILLS)] == [{OTHERS, "fillfactor=45"}]
