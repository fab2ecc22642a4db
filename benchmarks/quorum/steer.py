"""Steering the deployment under test, and asking it: by the calls that an operator has."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from benchmarks.quorum.deployment import Deployment
from runtime import polling

PATIENCE_SECONDS = 60.0
TIMEOUT_SECONDS = 45.0
REASON = "quorum report"


def ask(deployment: Deployment, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What is answered with 200; again for a while after 202 (not yet so) and 503. Raises `RuntimeError` for anything
    else, `NoAnswer`."""
    wire = deployment.wire()
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


def followers(deployment: Deployment) -> list[dict[str, Any]]:
    """All servers but the primary."""
    return [one for one in ask(deployment, "GET", f"{deployment.path}/replicas")["results"] if one["role"] == "replica"]


def delays(deployment: Deployment) -> dict[str, int]:
    """The delay of each follower, in milliseconds."""
    return {one["node"]: one["apply_delay_ms"] for one in followers(deployment)}


def set_delays(deployment: Deployment, milliseconds: Mapping[str, int]) -> None:
    """Give each follower the delay after which it applies a commit; in force when this returns."""
    for node, delay in milliseconds.items():
        ask(
            deployment,
            "PUT",
            f"{deployment.path}/replicas/{node}/delay",
            {"delay": f"{delay}ms", "reason": REASON},
        )


def set_quorum(deployment: Deployment, quorum: int) -> float:
    """So many followers, out of all, must have applied a commit; the seconds until that was in force. Raises
    `TimeoutError`."""
    started = time.monotonic()
    body = {"quorum": quorum, "synchronous_commit": "remote_apply", "reason": REASON}
    ask(deployment, "PUT", f"{deployment.path}/quorum", body)
    wanted = {"quorum" if quorum else "async"}
    if not polling.until(
        lambda: {one["sync_state"] for one in followers(deployment)} == wanted, PATIENCE_SECONDS, pause=0.1
    ):
        raise TimeoutError(f"not every follower was a part of the quorum of {quorum} within {PATIENCE_SECONDS:g} s")
    return time.monotonic() - started


@contextmanager
def left_as_found(deployment: Deployment, *, with_delays: bool) -> Iterator[None]:
    """After the block the shard has the quorum that it had before, and its followers their delays if these may be
    set."""
    quorum = ask(deployment, "GET", f"{deployment.path}/quorum")
    before = {name: quorum[name] for name in ("quorum", "strict", "synchronous_commit")}
    delayed = delays(deployment) if with_delays else {}
    try:
        yield
    finally:
        ask(deployment, "PUT", f"{deployment.path}/quorum", {**before, "reason": REASON})
        set_delays(deployment, delayed)
