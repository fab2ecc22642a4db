"""Who likes what, in the shards and by the API, beside what clients remember."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.chaos.expected_likes import Pair, counts_of, likes_of
from benchmarks.chaos.load import Load
from benchmarks.chaos.subject import Subject

SAMPLE = 60  # items and pairs asked of the API
COUNTS = """
SELECT substr(key, 8), value FROM counter WHERE key >= %s AND key < %s"""  # without `/likes/`
LIKERS = "SELECT item, user_id, liked, at, event FROM user_likes WHERE user_id >= %s AND user_id < %s"
LIKED = "SELECT item, user_id, liked, at, event FROM liked_items WHERE user_id >= %s AND user_id < %s"
LOGGED = """
SELECT DISTINCT ON (item, user_id) item, user_id, liked, at, event FROM like_events
WHERE user_id >= %s AND user_id < %s ORDER BY item, user_id, at DESC, event DESC"""
SIDES = {"user_likes": LIKERS, "liked_items": LIKED, "the newest in like_events": LOGGED}


class State(NamedTuple):
    """The newest event of a pair."""

    liked: bool
    at: int
    event: bytes


def judge(subject: Subject, load: Load) -> tuple[dict[str, int], Iterator[str]]:
    """What was checked, and each difference as a sentence."""
    clients = [one.likes for one in load.expected]
    due = likes_of(clients)
    counts = counts_of(due)
    found = {name: _states(subject, load, query) for name, query in SIDES.items()}
    counted = _counts(subject, load)
    likers = {pair for pair, states in found["user_likes"].items() if any(state.liked for state in states)}
    wanted = {pair for pair, liked in due.items() if liked}
    figures = {
        "likes acknowledged": sum(one.acknowledged for one in clients),
        "likers": len(wanted),
        "likes lost": len(wanted - likers),
        "likes that must not be": len(likers - wanted),
        "likes counted, without a liker or twice": sum(
            max(0, counted.get(item, 0) - counts.get(item, 0)) for item in {*counted, *counts}
        ),
    }
    return figures, _differences(subject, found, due, counted, counts)


def _differences(
    subject: Subject,
    found: dict[str, dict[Pair, list[State]]],
    due: dict[Pair, bool],
    counted: dict[str, int],
    counts: dict[str, int],
) -> Iterator[str]:
    for name, states in found.items():
        yield from _wrong_states(name, states, due)
        yield from (
            f"{user} and {item}: {name} has {states.get((item, user))}, user_likes {found['user_likes'].get((item, user))}"
            for item, user in sorted(due)
            if states.get((item, user)) != found["user_likes"].get((item, user))
        )
    for item in sorted({*counts, *counted}):
        if counted.get(item, 0) != counts.get(item, 0):
            yield f"{item}: counted {counted.get(item, 0)} likes, it must have {counts.get(item, 0)}"
    yield from _told(subject, due, counts)


def _wrong_states(name: str, states: dict[Pair, list[State]], due: dict[Pair, bool]) -> Iterator[str]:
    for item, user in sorted({*states, *due}):
        rows = states.get((item, user), [])
        if len(rows) > 1:
            yield f"{user} and {item} stand {len(rows)} times in {name}"
        if any(state.liked for state in rows) != due.get((item, user), False):
            yield f"{user} and {item}: {name} has {rows}, acknowledged last: {due.get((item, user))}"


def _states(subject: Subject, load: Load, query: str) -> dict[Pair, list[State]]:
    found: dict[Pair, list[State]] = {}
    for item, user, *state in _rows(subject, query, load.range()):
        found.setdefault((item, user), []).append(State(*state))
    return found


def _counts(subject: Subject, load: Load) -> dict[str, int]:
    first, behind = (f"/likes/chaos/{text}" for text in load.range())
    counted: dict[str, int] = {}
    for item, value in _rows(subject, COUNTS, (first, behind)):
        counted[item] = counted.get(item, 0) + value
    return counted


def _rows(subject: Subject, query: str, bounds: tuple[str, str]) -> Iterator[Any]:
    for shard in range(len(subject.shards)):
        with subject.database(shard) as conn:
            yield from conn.execute(query, bounds)


def _told(subject: Subject, due: dict[Pair, bool], counts: dict[str, int]) -> Iterator[str]:
    """What the API says, of some items and pairs."""
    wire = subject.wire()
    for item in sorted(counts)[:: max(1, len(counts) // SAMPLE)]:
        told = wire.ask("GET", f"/v1/likes/{item}?consistency=primary").json
        if (told.get("count"), told.get("pending")) != (counts[item], 0):
            yield f"{item}: the API says {told}, it must have {counts[item]} likes"
    for item, user in sorted(due)[:: max(1, len(due) // SAMPLE)]:
        told = wire.ask("GET", f"/v1/likes/{item}/users/{user}?consistency=primary").json
        if told.get("liked") is not due[item, user]:
            yield f"{user} and {item}: the API says {told}, acknowledged last: {due[item, user]}"
    wire.close()
