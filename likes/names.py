"""Names of items and users, and the keys that place them. Pure.

An item is `TYPE/ITEM`. Its likes are in the lane of its count, the counter `/likes/TYPE/ITEM`. What a user likes is in the
lane of `/likers/USER`, a key that has no counter. No call on counters takes a key with a slash.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

from counters.keys import are_keys

MAX_TYPE, MAX_NAME = 40, 140  # characters
TYPE_PATTERN = r"[A-Za-z0-9._:~@-]{1,40}"
NAME_PATTERN = r"[A-Za-z0-9._:~@-]{1,140}"  # of an item within its type, and of a user
RESERVED = "users"  # no type: it would shadow `/v1/likes/users/USER`
TYPE_RULE = f"1 to 40 characters out of A-Z a-z 0-9 . _ : ~ @ -, and not the reserved word {RESERVED}"
NAME_RULE = "1 to 140 characters out of A-Z a-z 0-9 . _ : ~ @ -"

COUNTS, LIKERS = "/likes/", "/likers/"  # what their keys begin with
_type, _name = re.compile(TYPE_PATTERN), re.compile(NAME_PATTERN)


def is_type(text: str) -> bool:
    """Whether this is a valid type of items."""
    return _type.fullmatch(text) is not None and text != RESERVED


def is_name(text: str) -> bool:
    """Whether this is a valid name of an item or of a user."""
    return _name.fullmatch(text) is not None


def first_bad_type(types: Collection[str]) -> str | None:
    """The first that is no valid type, or None."""
    return None if RESERVED not in types and _are(types, MAX_TYPE) else _first(types, is_type)


def first_bad_name(names: Collection[str]) -> str | None:
    """The first that is no valid name, or None."""
    return None if _are(names, MAX_NAME) else _first(names, is_name)


def _are(texts: Collection[str], most: int) -> bool:
    """Whether all have valid characters and lengths: the usual case, for which one check of all is enough."""
    lengths = set(map(len, texts))
    return are_keys(
        "".join(texts).encode(errors="surrogatepass"), min(lengths, default=1), max(lengths, default=1), most
    )


def _first(texts: Iterable[str], is_good: Callable[[str], bool]) -> str | None:
    return next((text for text in texts if not is_good(text)), None)


def item_of(type_: str, name: str) -> str:
    """An item, of its type and its name."""
    return f"{type_}/{name}"


def count_key(item: str) -> str:
    """The key of the counter that has the number of an item's likes."""
    return COUNTS + item


def is_count(key: str) -> bool:
    """Whether this is a `count_key`."""
    return key.startswith(COUNTS)


def item_of_count(key: str) -> str:
    """The item that a `count_key` belongs to."""
    return key.removeprefix(COUNTS)


def liker_key(user: str) -> str:
    """The key whose lane has what a user likes."""
    return LIKERS + user


def user_of_liker(key: str) -> str:
    """The user that a `liker_key` belongs to."""
    return key.removeprefix(LIKERS)
