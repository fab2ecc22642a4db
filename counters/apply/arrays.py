"""Literals of PostgreSQL arrays: the driver's adaptation costs ten times as much per element. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def integers(values: Iterable[int]) -> str:
    """An integer array."""
    return "{" + str(list(values))[1:-1] + "}"


def optional_integers(values: Iterable[int | None]) -> str:
    """An integer array; None is null."""
    return integers(values).replace("None", "NULL")  # type: ignore[arg-type]


def booleans(values: Iterable[bool]) -> str:
    """A boolean array."""
    return "{" + ",".join(["t" if value else "f" for value in values]) + "}"


def texts(values: Sequence[str]) -> str:
    """A text array; elements are quoted, as `null` may be one. Raises `ValueError` for a line break."""
    joined = "\n".join(values)
    if '"' in joined or "\\" in joined:  # no valid key has them, but a batch may contain anything
        joined = joined.replace("\\", "\\\\").replace('"', '\\"')
    if joined.count("\n") != len(values) - 1:
        raise ValueError("a key with a line break")
    return '{"' + joined.replace("\n", '","') + '"}' if values else "{}"


def byteas(values: Iterable[bytes | None]) -> str:
    """A bytea array; None is null."""
    return "{" + ",".join(["NULL" if value is None else rf"\\x{value.hex()}" for value in values]) + "}"
