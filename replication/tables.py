"""The tables whose copies are compared: counters, and those that rooms above register (in `AppConfig.ready`).

A table is partitioned by slot as `counter` is. Every change of a row is made by a transaction that also changes the row of
its lane in `apply_state` (`snapshots`), but rows may be deleted without that.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """`key`: the columns that name a row, beside `slot`, in byte order (COLLATE "C"); no text in them has a space. `columns`:
    the others that are compared. `version`: the one of them that never falls, an integer."""

    name: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    version: str


COUNTER = Table("counter", ("key",), ("value", "version"), "version")
_tables = [COUNTER]


def register(table: Table) -> None:
    """Have a table's copies compared."""
    if table not in _tables:
        _tables.append(table)


def known() -> tuple[Table, ...]:
    """All tables, counters first."""
    return tuple(_tables)
