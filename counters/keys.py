"""What a counter's key may be. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection

# Names of calls at `/v1/counters/NAME`, now or later: no key may shadow them.
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
    """Whether a key may begin so: the characters of a key, reserved words as well."""
    return _key.fullmatch(text) is not None


def first_invalid(keys: Collection[str]) -> str | None:
    """The first that is not a valid key. That all are valid, the usual case, is seen by looking at their characters at
    once."""
    lengths = set(map(len, keys))
    known = are_keys("".join(keys).encode(errors="surrogatepass"), min(lengths, default=1), max(lengths, default=1))
    if known and not any(word in keys for word in RESERVED):
        return None
    return next((key for key in keys if not is_key(key)), None)


def are_keys(content: bytes, shortest: int, longest: int) -> bool:
    """Whether texts are valid keys: `content` is all of them joined; lengths are of the shortest and the longest."""
    return shortest >= 1 and longest <= MAX_LENGTH and not content.translate(None, _CHARACTERS)
