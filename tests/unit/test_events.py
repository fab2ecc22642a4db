"""Events of other rooms in batches and writes: what may wait, and that an event is never accepted without its twin. Pure."""

from __future__ import annotations

from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters import batch
from counters.batch import BadBatch, Events, Increments, Operation, Step
from counters.intake import writes
from counters.intake.admission import Split
from sharding.lanes import EXCESS, Lane

ITEMS, USERS = Lane(0, 0), Lane(1, 3)
LANES = {"i": ITEMS, "j": ITEMS, "u": USERS, "v": USERS, "k": Lane(0, 1), "w": Lane(0, 1)}


def twins(pairs: list[tuple[str, str]]) -> dict[Lane, Operation]:
    """Events of (item, user), in the lanes of both."""
    halves = [*pairs, *((user, item) for item, user in pairs)]
    parts: dict[Lane, list[tuple[str, str]]] = {}
    for key, other in halves:
        parts.setdefault(LANES[key], []).append((key, other))
    return {
        lane: Events("x", [key for key, _ in part], [other for _, other in part], [list(range(len(part)))])
        for lane, part in parts.items()
    }


def events_in(write: writes.Write) -> dict[Lane, list[tuple[str, str]]]:
    found = {}
    for lane, encoded in write.operations.items():
        operation = batch.decode_segment(encoded)
        assert isinstance(operation, Events)
        assert len(operation.columns[0]) == len(operation.keys) > 0
        found[lane] = list(zip(operation.keys, operation.others, strict=True))
    return found


pairs = st.lists(st.tuples(st.sampled_from("ijk"), st.sampled_from("uvw")), min_size=1, max_size=8)


@given(
    pairs, st.sets(st.sampled_from("ijk")), st.sets(st.sampled_from("ijk")), st.sets(st.sampled_from([*LANES.values()]))
)
def test_both_halves_of_an_event_are_accepted_or_none(
    pairs: list[tuple[str, str]], excess: set[str], refused: set[str], full: set[Lane]
) -> None:
    counts = {item: sum(one == item for one, _ in pairs) for item, _ in pairs}
    excess, refused = (excess - refused) & counts.keys(), refused & counts.keys()
    write = writes.routed(twins(pairs), 1, counts=counts)
    left, shed = writes.without(write, Split(set(excess), set(refused), dict.fromkeys(full, "backlog")))
    by_lane = events_in(left)
    halves = sorted(half for part in by_lane.values() for half in part)
    kept = [(i, u) for i, u in pairs if i not in refused and not {LANES[i], LANES[u]} & full]
    assert halves == sorted([*kept, *((u, i) for i, u in kept)])
    spilled = {key for lane, part in by_lane.items() if lane.queue == EXCESS for key, _ in part}
    assert spilled == excess & {item for item, _ in kept}, "only the side that is too hot"
    assert all(lane.of("fresh") == LANES[key] for lane, part in by_lane.items() for key, _ in part)
    assert left.increments.keys() == left.operations.keys()
    gone = {key for keys in shed.refused.values() for key in keys}
    assert gone == {key for pair in pairs for key in pair if key in refused or LANES[key] in full}
    assert left.counts == {key: count for key, count in counts.items() if key not in gone | set(shed.excess)}


def test_what_a_client_waits_for_may_not_wait() -> None:
    waits = Events("x", ["a"], ["b"], [], awaited=True)
    operations: list[Operation] = [Increments(["a"], [1]), Step("a", "set", 1), Events("x", ["a"], ["b"], []), waits]
    segments = [(index, batch.encode_segment(one)) for index, one in enumerate(operations)]
    whole = batch.decode(batch.encode(uuid4(), segments, [], "reply"))
    assert [one for _, one in whole.unconditional.segments] == [operations[0], operations[2]]
    assert [one for _, one in whole.conditional.segments] == [operations[1], operations[3]]


@pytest.mark.parametrize(("others", "columns"), [([], []), (["b"], [[1, 2]]), (["b", "c"], [[1]])])
def test_columns_are_as_long_as_keys(others: list[str], columns: list[list[int]]) -> None:
    data = batch.encode(
        uuid4(), [(0, msgspec.Raw(msgspec.msgpack.encode(["e", "x", ["a"], others, columns])))], [], None
    )
    with pytest.raises(BadBatch):
        batch.decode(data)
