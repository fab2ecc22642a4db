"""Increments as the files that `manage.py ingest` reads: lines in bytes, each with its end."""

from __future__ import annotations

import json


def as_csv(increments: list[tuple[str, int]]) -> list[bytes]:
    return [b"key,delta\n", *(f"{key},{delta}\n".encode() for key, delta in increments)]


def as_ndjson(increments: list[tuple[str, int]]) -> list[bytes]:
    return [json.dumps({"key": key, "delta": delta}).encode() + b"\n" for key, delta in increments]
