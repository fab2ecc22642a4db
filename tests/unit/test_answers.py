"""What can be checked of the answers without a cluster.

Reserved keys, bounded documents, what is recorded of a batch, and what the schema takes from the settings.
"""

from __future__ import annotations

import msgspec
import pytest
from django.core.exceptions import ValidationError

from cluster.state import State
from counters.api import media, problems, requests
from counters.apply import arrays
from counters.apply.loading import writes_of
from counters.apply.plan import Placed, Planning
from counters.apply.transaction import _bits
from counters.batch import FORMAT, Batch, Increments, Step
from counters.keys import RESERVED, first_invalid, is_key, is_prefix
from counters.models import check_name

MAX = 2**63 - 1
ID = b"0123456789abcdef"


@pytest.mark.parametrize("word", sorted(RESERVED))
def test_a_reserved_word_is_no_key(word: str) -> None:
    assert not is_key(word)
    assert first_invalid({"a": 1, word: 2, "b": 3}) == word
    assert first_invalid(["a", word]) == word
    assert is_prefix(word), "keys may begin so"
    for key in (f"{word}s", f"{word}:1", word.upper()):
        assert is_key(key)
        assert first_invalid([key]) is None


def test_reserved_words_are_the_calls_that_are_to_come() -> None:
    assert {"top", "stream", "increments"} == RESERVED


def test_a_document_is_short_whatever_it_is_made_of() -> None:
    long = "é\n" * 1_000_000
    made = [
        problems.invalid(long, long),
        problems.Problem(404, "x", long, errors=[{"field": long, "rule": long}]),
        media.unsupported(long, ["application/json"]),
    ]
    for problem in made:
        assert len(msgspec.json.encode(problem.document())) < 8000
    assert made[0].errors[0]["field"] == long[:199] + "…"
    assert "is not one of application/json" in made[2].detail
    assert problems.shortened("a" * 200) == "a" * 200


@pytest.mark.parametrize(
    ("body", "field", "rule"),
    [
        (b'{"delta": "1"}', "delta", "Expected `int`, got `str`"),
        (b'{"x - at `$.delta`": 1}', "body", "Object contains unknown field `x - at `$.delta``"),
        (b'{"' + b" - at `$" * 100_000 + b'": 1}', "body", "Object contains unknown field ` - at `$"),
    ],
)
def test_where_a_rule_is_broken(body: bytes, field: str, rule: str) -> None:
    with pytest.raises(problems.Problem) as error:
        media.decode(body, requests.Increment)
    (told,) = error.value.errors
    assert told["field"] == field
    assert told["rule"].startswith(rule)


def batch_of(*segments: tuple[int, Increments | Step]) -> Placed:
    return Placed(10, Batch(FORMAT, ID, list(segments), []))


def test_the_ledger_has_a_bit_for_each_write() -> None:
    one = Increments(["a"], [1])
    assert arrays.byteas([_bits(writes_of(batch_of().batch))]) == r"{\\x}"
    assert arrays.byteas([_bits(writes_of(batch_of((0, one)).batch))]) == r"{\\x01}"
    assert arrays.byteas([_bits(writes_of(batch_of((1, one), (9, one)).batch))]) == r"{\\x0202}"


def test_a_rejected_operation_tells_of_how_many_it_is_one() -> None:
    planning = Planning({}, {"a", "b", "c"})
    planning.take(
        batch_of(
            (0, Increments(["a", "b"], [MAX, 1])), (1, Increments(["a", "b"], [1, 1])), (2, Step("a", "increment", 1))
        )
    )
    assert [(one.index, one.key, one.reason, one.among) for one in planning.plan.outcomes] == [
        (1, "a", "overflow", 2),
        (2, "a", "overflow", 1),
    ]


@pytest.mark.parametrize("name", ["a", "Ünïcödé 1", "a" * 50, " a "])
def test_names_of_api_keys(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", " ", "a" * 51, "a\nb", "a\0", "\x1b[1m", "a\u2028b", "a\n"])
def test_what_is_no_name_of_an_api_key(name: str) -> None:
    with pytest.raises(ValidationError, match="1 to 50 characters"):
        check_name(name)


def test_a_server_of_a_shard_has_a_mode() -> None:
    row = dict.fromkeys(("name", "role", "shard", "pid", "port", "metrics_port", "state", "restarts"))
    rows = [row | {"name": f"postgres-0-{node}", "role": "postgres"} for node in (1, 2)] + [
        row | {"name": "beat", "role": "beat"}
    ]
    shown = State(processes=rows, primaries={"0": 2}).public({})["processes"]
    assert [one.get("mode") for one in shown] == ["replica", "primary", None]
    assert shown[0]["role"] == "postgres"
