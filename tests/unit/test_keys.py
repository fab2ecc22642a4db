"""What a key may be. Pure."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counters.keys import first_invalid, is_key

CHARACTERS = string.ascii_letters + string.digits + "._:~@-"
good = st.text(alphabet=CHARACTERS, min_size=1, max_size=200)
anything = st.one_of(st.text(max_size=5), st.text(alphabet=CHARACTERS + "\n /%\0é", max_size=5), good)


def by_the_rule(text: str) -> bool:
    """The rule as it is told: 1 to 200 characters out of a set, and no reserved word."""
    return 1 <= len(text) <= 200 and set(text) <= set(CHARACTERS) and text not in {"increments", "stream", "top"}


@given(anything)
def test_the_rule(text: str) -> None:
    assert is_key(text) is by_the_rule(text)


@given(st.lists(st.one_of(good, anything), max_size=6))
def test_the_first_invalid_of_many(keys: list[str]) -> None:
    assert first_invalid(keys) == next((key for key in keys if not by_the_rule(key)), None)


@pytest.mark.parametrize(
    "text", ["", "a b", "a/b", "a\n", "\na", "a\0", "é", "a" * 201, "%41", "a,b", "\u0661", "\uff41", "a\u200b"]
)
def test_what_is_no_key(text: str) -> None:
    assert not is_key(text)
    assert first_invalid(["a", text, "b"]) == text
    assert first_invalid([text]) == text


@pytest.mark.parametrize(
    "text", ["a", "A", "0", "-", ".", "..", "~", "@", ":", "_", "a" * 200, "user@example.org:likes"]
)
def test_what_is_a_key(text: str) -> None:
    assert is_key(text)
    assert first_invalid([text, text]) is None


def test_none_of_no_keys_is_invalid() -> None:
    assert first_invalid([]) is None
