"""Rules for counter keys. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

# Current and future calls at `/v1/counters/NAME`: no key may shadow them.
RESERVED = frozenset({"increments", "stream", "top"})
CHARACTERS_RULE = "1 to 200 characters out of A-Z a-z 0-9 . _ : ~ @ -"
KEY_RULE = f"{CHARACTERS_RULE}, and not a reserved word ({', '.join(sorted(RESERVED))})"
KEY_PATTERN = r"[A-Za-z0-9._:~@-]{1,200}"

MAX_LENGTH = 200
_key = re.compile(KEY_PATTERN)
_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:~@-"


def is_key(text: str) -> bool:
    """Whether this is a valid key."""
    return _key.fullmatch(text) is not None and text not in RESERVED


def is_prefix(text: str) -> bool:
    """Whether a key may start with this; reserved words are allowed."""
    return _key.fullmatch(text) is not None


def is_stored(text: str) -> bool:
    """Whether a counter may have this key: a valid one, or one of another room, with slashes, which no call takes."""
    return is_prefix(text.replace("/", "."))


def first_invalid(keys: Collection[str]) -> str | None:
    """The first invalid key, or None. If all are valid, the usual case, one check of all characters is enough."""
    lengths = set(map(len, keys))
    known = are_keys("".join(keys).encode(errors="surrogatepass"), min(lengths, default=1), max(lengths, default=1))
    if known and not any(word in keys for word in RESERVED):
        return None
    return next((key for key in keys if not is_key(key)), None)


def are_keys(content: bytes, shortest: int, longest: int, most: int = MAX_LENGTH) -> bool:
    """Whether texts have valid characters and lengths: `content` is all of them joined; `shortest` and `longest` are
    lengths, `most` is what they may have."""
    return shortest >= 1 and longest <= most and not content.translate(None, _CHARACTERS)
