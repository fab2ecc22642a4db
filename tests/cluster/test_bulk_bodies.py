"""Bodies of the bulk call: every format says the same increments, and none of them can do harm."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import httpx
import msgspec
import pyarrow as pa
import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from counters import batch
from counters.api import arrow_messages, bodies, bulk
from counters.api.bulk import Bulk
from counters.api.media import ARROW, JSON, MSGPACK, NDJSON
from counters.api.problems import Problem
from counters.batch import Increments
from counters.intake import writes
from counters.intake.columns import Columns
from counters.operations import MAX_VALUE, MIN_VALUE
from sharding import topology
from tests.support.cluster import Cluster, eventually, value_of

Pairs = Sequence[tuple[str, int]]
KEY_RULE = "1 to 200 characters"


def rows(pairs: Pairs) -> dict[str, Any]:
    return {"increments": [{"key": key, "delta": delta} for key, delta in pairs]}


def columns(pairs: Pairs) -> dict[str, Any]:
    return {"keys": [key for key, _ in pairs], "deltas": [delta for _, delta in pairs]}


def stream(batches: Sequence[Any], schema: Any = None, **options: Any) -> bytes:
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema or batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for one in batches:
            writer.write_batch(one)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def records(keys: Any, deltas: Any = None) -> Any:
    """A record batch; each delta is 1 by default."""
    keys = keys if isinstance(keys, pa.Array) else pa.array(keys, pa.string())
    return pa.record_batch({"key": keys, "delta": pa.array([1] * len(keys) if deltas is None else deltas)})


def encoded(keys: Sequence[str | None], indices: Sequence[int | None]) -> Any:
    """A dictionary-encoded array with a dictionary as it is given."""
    return pa.DictionaryArray.from_arrays(pa.array(indices, pa.int16()), pa.array(keys, pa.string()))


KINDS = {
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "dictionary of views": pa.dictionary(pa.int32(), pa.string_view()),
}


def as_arrow(kind: Any, parts: int = 1, **options: Any) -> Callable[[Pairs], bytes]:
    """Increments as a stream whose keys are of a type, in so many record batches."""

    def encode(pairs: Pairs) -> bytes:
        keys = pa.array([key for key, _ in pairs], pa.string())
        keys = keys.dictionary_encode().cast(KINDS[kind]) if kind in KINDS else keys.cast(kind)
        whole = pa.record_batch({"key": keys, "delta": pa.array([delta for _, delta in pairs], pa.int64())})
        size = -(-len(pairs) // parts)
        return stream([whole.slice(start, size) for start in range(0, len(pairs), size)], **options)

    return encode


FORMATS: dict[str, tuple[str, Callable[[Pairs], bytes]]] = {
    "JSON rows": (JSON, lambda pairs: msgspec.json.encode(rows(pairs))),
    "JSON columns": (JSON, lambda pairs: msgspec.json.encode(columns(pairs))),
    "NDJSON": (NDJSON, lambda pairs: msgspec.json.Encoder().encode_lines(rows(pairs)["increments"])),
    "msgpack rows": (MSGPACK, lambda pairs: msgspec.msgpack.encode(rows(pairs))),
    "msgpack columns": (MSGPACK, lambda pairs: msgspec.msgpack.encode(columns(pairs))),
    "Arrow": (ARROW, as_arrow(pa.string())),
    "Arrow, large strings": (ARROW, as_arrow(pa.large_string())),
    "Arrow, string views": (ARROW, as_arrow(pa.string_view())),
    "Arrow, a dictionary": (ARROW, as_arrow("dictionary")),
    "Arrow, a dictionary of string views": (ARROW, as_arrow("dictionary of views")),
    "Arrow, three batches": (ARROW, as_arrow(pa.string(), 3)),
    "Arrow, three batches and a dictionary": (ARROW, as_arrow("dictionary", 3)),
    "Arrow, compressed": (ARROW, as_arrow(pa.string(), compression="zstd")),
}


def folded(name: str, pairs: Pairs) -> dict[str, int]:
    """The fold of increments that came in a format."""
    media_type, encode = FORMATS[name]
    found = bulk.decode(media_type, encode(pairs))
    assert found.count == len(pairs)
    assert len(found.folded) == len(dict(found.folded.items()))
    return dict(found.folded.items())


def problem(media_type: str, body: bytes) -> Problem:
    with pytest.raises(Problem) as raised:
        bulk.decode(media_type, body)
    assert len(raised.value.detail) < 500
    return raised.value


def check(found: Problem, field: str, rule: str) -> None:
    assert found.status == 400, found.detail
    (error,) = found.errors or []
    assert error["field"] == field
    assert rule in error["rule"]


keys = st.one_of(st.sampled_from("abc"), st.from_regex(r"[A-Za-z0-9._:~@-]{1,200}", fullmatch=True))
small = st.integers(-1000, 1000)
extreme = st.one_of(st.integers(MIN_VALUE, MAX_VALUE), st.sampled_from([MIN_VALUE, MAX_VALUE]))


@effort(max_examples=100, deadline=None)
@given(st.lists(st.tuples(keys, small), min_size=1, max_size=50))
def test_every_format_folds_to_the_same(pairs: list[tuple[str, int]]) -> None:
    expected: Counter[str] = Counter()
    for key, delta in pairs:
        expected[key] += delta
    for name in FORMATS:
        assert folded(name, pairs) == dict(expected), name


@effort(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("ab"), extreme), min_size=1, max_size=6))
def test_no_format_lets_a_sum_leave_64_bits(pairs: list[tuple[str, int]]) -> None:
    """The sum counts, not what it goes through on the way, whatever the order and the record batches."""
    sums: Counter[str] = Counter()
    for key, delta in pairs:
        sums[key] += delta
    fits = all(MIN_VALUE <= value <= MAX_VALUE for value in sums.values())
    for name, (media_type, encode) in FORMATS.items():
        if fits:
            assert folded(name, pairs) == dict(sums), name
        else:
            assert "add up to more than 64 bits" in problem(media_type, encode(pairs)).detail, name


@effort(max_examples=100, deadline=None)
@given(st.dictionaries(keys, st.integers(MIN_VALUE, MAX_VALUE), min_size=1, max_size=40), st.sampled_from([1, 4, 16]))
def test_columns_are_split_and_encoded_as_a_dictionary_is(sums: dict[str, int], lane_count: int) -> None:
    in_force = topology.Topology(1, tuple(slot % 3 for slot in range(1024)), lane_count)
    columns = bulk.decode(ARROW, as_arrow(pa.string())(list(sums.items()))).folded
    if isinstance(columns, dict):  # sums that pyarrow is not trusted with
        columns = arrow_columns(sums)
    decoder = msgspec.msgpack.Decoder(batch.Operation)
    found = {}
    for lane, segment in columns.segments(in_force).items():
        increments = decoder.decode(segment)
        assert isinstance(increments, Increments)
        found[lane] = dict(zip(increments.keys, increments.deltas, strict=True))
    assert found == {lane: {key: sums[key] for key in some} for lane, some in in_force.by_lane(sums).items()}


def arrow_columns(sums: dict[str, int]) -> Columns:
    return Columns(pa.array(sums, pa.string()), pa.array(sums.values(), pa.int64()))


COLUMNS = {
    "lengths that differ": ({"keys": ["a", "b"], "deltas": [1]}, "deltas", "as many as keys: 2, got 1"),
    "no keys": ({"keys": [], "deltas": []}, "keys", "at least one"),
    "a bad key": ({"keys": ["a", "b", "c", "d d", "d d"], "deltas": [1] * 5}, "keys[3]", KEY_RULE),
    "an empty key": ({"keys": ["a", ""], "deltas": [1, 2]}, "keys[1]", KEY_RULE),
    "a null key": ({"keys": ["a", None], "deltas": [1, 2]}, "keys[1]", "Expected `str`, got"),
    "a null delta": ({"keys": ["a", "b"], "deltas": [1, None]}, "deltas[1]", "Expected `int`, got"),
    "a float": ({"keys": ["a"], "deltas": [1.5]}, "deltas[0]", "`int`, got `float`"),
    "a delta beyond 64 bits": ({"keys": ["a"], "deltas": [MAX_VALUE + 1]}, "deltas[0]", f"<= {MAX_VALUE}"),
    "a sum beyond 64 bits": ({"keys": ["a", "a"], "deltas": [MAX_VALUE, 1]}, "deltas", "more than 64 bits"),
    "no deltas": ({"keys": ["a"]}, "body", "missing required field `deltas`"),
    "deltas alone": ({"deltas": [1]}, "body", "missing required field `keys`"),
    "neither shape": ({}, "body", "missing required field `increments`, or `keys` and `deltas`"),
    "both shapes": ({"increments": [], "keys": [], "deltas": []}, "body", "either `increments` or `keys` and `deltas`"),
    "another field": ({"keys": ["a"], "deltas": [1], "wait": 1}, "body", "unknown field `wait`"),
    "one key": ({"keys": "a", "deltas": [1]}, "keys", "`array`, got `str`"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_that_are_refused(name: str) -> None:
    body, field, rule = COLUMNS[name]
    check(problem(JSON, msgspec.json.encode(body)), field, rule)
    check(problem(MSGPACK, msgspec.msgpack.encode(body)), field, rule)


INDEX = (struct.pack("<hxxxxxxq", 0, 1), struct.pack("<hxxxxxxq", 9, 1))
OFFSET = (struct.pack("<3i", 0, 1, 3), struct.pack("<3i", 0, 1, 1 << 30))
WRONG_STREAMS: dict[str, tuple[Callable[[], bytes], str, str]] = {
    "no keys": (lambda: stream([records([])]), "key", "at least one"),
    "no batches": (lambda: stream([], records(["a"]).schema), "key", "at least one"),
    "a bad key": (lambda: stream([records(["a", "b", "c", "d d"])]), "key[3]", KEY_RULE),
    "a bad key in a later batch": (lambda: stream([records(["a", "b"]), records(["c", "", ""])]), "key[3]", KEY_RULE),
    "a bad key in a dictionary": (lambda: stream([records(encoded(["a", "\n"], [0, 0, 1]))]), "key[2]", KEY_RULE),
    "a key that is too long": (lambda: stream([records(["a" * 200, "a" * 201])]), "key[1]", KEY_RULE),
    "a view that is too long": (
        lambda: stream([records(pa.array(["a", "b" * 201], pa.string_view()))]),
        "key[1]",
        KEY_RULE,
    ),
    "a null key": (lambda: stream([records(["a", None])]), "key[1]", "got null"),
    "a null view": (lambda: stream([records(pa.array(["a", None], pa.string_view()))]), "key[1]", "got null"),
    "a null index": (lambda: stream([records(encoded(["a"], [0, None]))]), "key[1]", "got null"),
    "a null in a dictionary": (lambda: stream([records(encoded(["a", None], [0, 1]))]), "key[1]", "got null"),
    "a null delta": (
        lambda: stream([records(["a", "b"]), records(["c"], pa.array([None], pa.int64()))]),
        "delta[2]",
        "got null",
    ),
    "a delta beyond 64 bits": (
        lambda: stream([records(["a", "b"], pa.array([1, MAX_VALUE + 1], pa.uint64()))]),
        *("delta[1]", f"<= {MAX_VALUE}"),
    ),
    "a sum beyond 64 bits": (lambda: stream([records(["a", "a"], [MAX_VALUE, 1])]), "delta", "more than 64 bits"),
    "a sum of batches beyond 64 bits": (
        lambda: stream([records(["a"], [MIN_VALUE]), records(["a"], [-1])]),
        "delta",
        "64 bits",
    ),
    "floats": (lambda: stream([records(["a"], [1.0])]), "delta", "integers, got `double`"),
    "bytes": (
        lambda: stream([pa.record_batch({"key": [b"a"], "delta": [1]})]),
        "key",
        "strings, plain or dictionary-encoded, got",
    ),
    "a dictionary of integers": (
        lambda: stream([records(pa.array([1]).dictionary_encode())]),
        "key",
        "got `dictionary",
    ),
    "no delta": (lambda: stream([pa.record_batch({"key": ["a"]})]), "body", "missing required column `delta`"),
    "no key": (lambda: stream([pa.record_batch({"delta": [1]})]), "body", "missing required column `key`"),
    "another column": (
        lambda: stream([pa.record_batch({"key": ["a"], "delta": [1], "x" * 3000: [1]})]),
        "body",
        "unknown column `xxx",
    ),
    "a column twice": (
        lambda: stream([pa.RecordBatch.from_arrays([pa.array([1])] * 3, ["key", "delta", "delta"])]),
        *("body", "a column stands twice"),
    ),
    "two streams": (lambda: stream([records(["a"])]) * 2, "body", "trailing bytes"),
    "nothing": (lambda: b"", "body", "its end is missing"),
    "JSON": (lambda: msgspec.json.encode(rows([("a", 1)])), "body", "not an Arrow IPC stream"),
    "a file": (lambda: b"ARROW1\0\0" + stream([records(["a"])]), "body", "not an Arrow IPC stream"),
    "no end": (lambda: stream([records(["a"]), records(["b"])])[:-8], "body", "its end is missing"),
    "too many messages": (lambda: stream([records(["a"])] * 256), "body", "more than 256 messages"),
    "much metadata": (
        lambda: stream([records(["a"])], records(["a"]).schema.with_metadata({"x": "y" * 20_000})),
        *("body", "has metadata of 20,"),
    ),
    "an index beyond its dictionary": (
        lambda: stream([records(encoded(["a"], [0]))]).replace(*INDEX),
        "body",
        "not an Arrow IPC stream",
    ),
    "an offset beyond its text": (
        lambda: stream([records(["a", "bc"])]).replace(*OFFSET),
        "body",
        "not an Arrow IPC stream",
    ),
    "text that is not UTF-8": (
        lambda: stream([records(["abcdefgh"])]).replace(b"abcdefgh", b"abc\xff\xfefgh"),
        "body",
        "UTF8",
    ),
}


@pytest.mark.parametrize("name", WRONG_STREAMS)
def test_streams_that_are_refused(name: str) -> None:
    body, field, rule = WRONG_STREAMS[name]
    check(problem(ARROW, body()), field, rule)


def bomb() -> bytes:
    """16 MiB and a byte, in a few thousand."""
    return stream([records(["a" * (16 * 1024 * 1024 + 1)])], compression="zstd")


def dictionaries() -> bytes:
    """A dictionary of a megabyte with a delta before each of 100 batches: to read it all is to go through 100 MB."""
    words = [f"{number:0200}" for number in range(6000)]
    batches = [records(encoded(words[: 5000 + number], [number])) for number in range(100)]
    return stream(batches, emit_dictionary_deltas=True)


@pytest.mark.parametrize("body", [bomb, dictionaries, lambda: stream([records(["a"] * 50_001)] * 2)])
def test_what_would_take_too_much_is_refused_before_it_is_read(body: Callable[[], bytes]) -> None:
    data = body()
    before = pa.total_allocated_bytes()
    found = problem(ARROW, data)
    assert (found.status, found.slug) == (413, "payload-too-large")
    assert pa.total_allocated_bytes() == before


def long_views(number: int) -> Any:
    """So many views of one text of a megabyte."""
    text = b"a" * 1_000_000
    views = struct.pack("<i4sii", len(text), text[:4], 0, 0) * number
    return pa.Array.from_buffers(pa.string_view(), number, [None, pa.py_buffer(views), pa.py_buffer(text)])


def test_views_of_the_same_megabytes_are_not_looked_at() -> None:
    """Anybody who compares or copies these would make 100 GB of them."""
    check(problem(ARROW, stream([records(long_views(100_000))])), "key[0]", KEY_RULE)


def test_views_of_a_dictionary_are_not_looked_at() -> None:
    """Those that no row uses do no harm, as in any dictionary."""
    words = pa.concat_arrays([pa.array(["a"], pa.string_view()), long_views(100_000)])
    unused = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int32()), words)
    assert dict(bulk.decode(ARROW, stream([records(unused)])).folded.items()) == {"a": 2}
    used = pa.DictionaryArray.from_arrays(pa.array([0, 7], pa.int32()), words)
    check(problem(ARROW, stream([records(used)])), "key[1]", KEY_RULE)


@pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_deltas_of_every_integer_type(kind: str) -> None:
    found = bulk.decode(ARROW, stream([records(["a", "b", "a"], pa.array([100, 2, 100], kind))]))
    assert dict(found.folded.items()) == {"a": 200, "b": 2}


@pytest.mark.parametrize("index", [pa.int8(), pa.uint8(), pa.int64(), pa.uint64()], ids=str)
@pytest.mark.parametrize("text", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_dictionaries_of_every_type(index: Any, text: Any) -> None:
    """Also one that has an entry twice, one that nobody uses, and a null that nobody uses."""
    words = pa.array(["a", "b", "a", "no key", None], text)
    keys = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0], index), words)
    found = bulk.decode(ARROW, stream([records(keys, [1, 2, 3, 4])]))
    assert (found.count, dict(found.folded.items())) == (4, {"a": 8, "b": 2})


def growing() -> bytes:
    """Three batches, each with one key more in a delta to the dictionary."""
    batches = [records(encoded(["a", "b", "c"][:size], list(range(size)))) for size in (1, 2, 3)]
    return stream(batches, emit_dictionary_deltas=True)


def test_a_dictionary_that_grows() -> None:
    assert dict(bulk.decode(ARROW, growing()).folded.items()) == {"a": 3, "b": 2, "c": 1}


SAMPLES = [
    stream([records(["a", "b" * 20, "a"])]),
    stream([records(pa.array(["a", "b" * 20, "a"], pa.string_view()))]),
    stream([records(["a", "b", "a"] * 40)], compression="lz4"),
    growing(),
    as_arrow("dictionary of views", 2)([("a", 1), ("b" * 20, 2), ("a", 1)]),
]
SAMPLE_NAMES = ["plain", "views", "compressed", "dictionaries", "dictionary of views"]


@pytest.mark.parametrize("sample", SAMPLES, ids=SAMPLE_NAMES)
def test_a_part_of_a_stream_is_refused(sample: bytes) -> None:
    for length in range(len(sample)):
        assert problem(ARROW, sample[:length]).status in (400, 413)


@pytest.mark.usefixtures("cluster")  # whose topology says which shards a valid body is for
@pytest.mark.parametrize("sample", SAMPLES, ids=SAMPLE_NAMES)
def test_a_damaged_stream_is_refused_or_valid(sample: bytes) -> None:
    """Bytes and lengths changed at random: a problem or valid increments, no other error, little memory."""
    random = Random(len(sample))
    numbers = (0, 1, -1, 8, 127, 255, 100_000, 2**31, 2**31 - 1, 2**62, -(2**63))
    before = pa.total_allocated_bytes()
    for _ in range(1500):
        data = bytearray(sample)
        for _ in range(random.choice((1, 1, 2, 4))):
            place, width = random.randrange(len(data)), random.choice((1, 2, 4, 8))
            data[place : place + width] = (random.choice(numbers) % 256**width).to_bytes(width, "little")
        try:
            found = bulk.decode(ARROW, bytes(data))
        except Problem as error:
            assert error.status in (400, 413)  # noqa: PT017 - only some raise
        else:
            assert_valid(found)
    assert pa.total_allocated_bytes() - before < settings.TALLY.max_body_bytes


def assert_valid(found: Bulk) -> None:
    assert 1 <= len(found.folded) <= found.count <= settings.TALLY.max_increments
    assert writes.increments(found.folded).operations


@pytest.mark.limit("TALLY_MAX_INCREMENTS")
@pytest.mark.parametrize("media_type", [JSON, MSGPACK])
def test_too_many_columns(media_type: str) -> None:
    body = columns([("a", 1)] * 100_001)
    encode = msgspec.json.encode if media_type == JSON else msgspec.msgpack.encode
    assert problem(media_type, encode(body)).status == 413


def test_other_media_types_are_named() -> None:
    found = problem("text/csv", b"key,delta\n")
    assert found.status == 415
    assert all(name in found.detail for name in (JSON, NDJSON, MSGPACK, ARROW))


def test_without_pyarrow_the_answer_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HAS_PYARROW", False)
    found = problem(ARROW, SAMPLES[0])
    assert found.status == 415
    assert "install tally's `arrow` extra" in found.detail


def test_the_size_of_a_stream() -> None:
    body = stream([records(encoded(["a", "b"], [0, 1])), records(encoded(["a", "b"], [0, 0, 1]))])
    size = arrow_messages.measure(body)
    assert size.rows == 5
    assert 0 < size.memory < size.reached < len(body)


@pytest.mark.parametrize("name", FORMATS)
def test_a_write_in_each_format(client: httpx.Client, key: str, name: str) -> None:
    media_type, encode = FORMATS[name]
    pairs = [(f"{key}:{number % 7}", number) for number in range(-50, 150)]
    answer = client.post("/v1/increments", content=encode(pairs), headers={"Content-Type": media_type})
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["accepted"], body["keys"]) == (200, 7)
    eventually(lambda: client.get(f"/v1/writes/{body['id']}").json()["status"] == "applied")
    expected: Counter[str] = Counter()
    for one, delta in pairs:
        expected[one] += delta
    assert {one: value_of(client, one) for one in expected} == dict(expected)


@pytest.mark.parametrize("name", ["JSON columns", "msgpack columns", "Arrow"])
def test_a_repeat_is_counted_once(client: httpx.Client, key: str, name: str) -> None:
    media_type, encode = FORMATS[name]
    headers = {"Content-Type": media_type, "Idempotency-Key": key}
    answers = [client.post("/v1/increments", content=encode([(key, 5)]), headers=headers).text for _ in range(2)]
    assert answers[0] == answers[1]
    assert eventually(lambda: value_of(client, key)) == 5


def test_a_large_stream_is_counted(cluster: Cluster, client: httpx.Client, key: str) -> None:
    """100,000 increments of 5,000 keys, which take every lane."""
    random = Random(1)
    pairs = [(f"{key}:{random.randrange(5000)}", random.randrange(-5, 50)) for _ in range(100_000)]
    expected: Counter[str] = Counter()
    for one, delta in pairs:
        expected[one] += delta
    answer = client.post("/v1/increments", content=as_arrow("dictionary")(pairs), headers={"Content-Type": ARROW})
    assert answer.status_code == 202, answer.text
    eventually(lambda: client.get(f"/v1/writes/{answer.json()['id']}").json()["status"] == "applied")
    for some in [list(expected)[start : start + 1000] for start in range(0, len(expected), 1000)]:
        found = client.get("/v1/counters", params={"key": some, "consistency": "primary"}).json()["results"]
        assert {one["key"]: one["value"] for one in found} == {one: expected[one] for one in some}
