"""Steering the cluster under test, and asking it: by the calls that an operator has."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.chaos.subject import Subject
from runtime import polling

SHARD = "/v1/shards/0"
PATIENCE_SECONDS = 60.0
TIMEOUT_SECONDS = 45.0


def ask(subject: Subject, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is answered with 200; again for a while after 202 (not yet so) and 503. Raises `RuntimeError` for anything
    else, `NoAnswer`."""
    wire = subject.wire()
    data, headers = (
        (json.dumps(body).encode(), {"Content-Type": "application/json"}) if body is not None else (None, {})
    )
    try:
        for _ in polling.attempts(PATIENCE_SECONDS, pause=0.5):
            answer = wire.ask(method, path, data, headers, timeout=TIMEOUT_SECONDS)
            if answer.status == 200:
                return answer.json
            if answer.status not in (202, 503):
                break
        text = answer.body.decode(errors="replace")[:300]
        raise RuntimeError(f"{method} {path} is answered with {answer.status}: {text}")
    finally:
        wire.close()


def followers(subject: Subject) -> list[dict[str, Any]]:
    """All servers but the primary."""
    return [one for one in ask(subject, "GET", f"{SHARD}/replicas")["results"] if one["role"] == "replica"]


def set_delays(subject: Subject, milliseconds: Mapping[str, int]) -> None:
    """Give each follower the delay after which it applies a commit; in force when this returns."""
    for node, delay in milliseconds.items():
        ask(subject, "PUT", f"{SHARD}/replicas/{node}/delay", {"delay": f"{delay}ms", "reason": "quorum report"})


def set_quorum(subject: Subject, quorum: int) -> float:
    """So many followers, out of all, must have applied a commit; the seconds until that was in force. Raises
    `TimeoutError`."""
    started = time.monotonic()
    ask(
        subject,
        "PUT",
        f"{SHARD}/quorum",
        {"quorum": quorum, "synchronous_commit": "remote_apply", "reason": "quorum report"},
    )
    wanted = {"quorum" if quorum else "async"}
    if not polling.until(
        lambda: {one["sync_state"] for one in followers(subject)} == wanted, PATIENCE_SECONDS, pause=0.1
    ):
        raise TimeoutError(f"not every follower was a part of the quorum of {quorum} within {PATIENCE_SECONDS:g} s")
    return time.monotonic() - started
