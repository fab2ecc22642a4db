"""What a counter's key may be. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

KEY_RULE = "1 to 200 characters out of A-Z a-z 0-9 . _ : ~ @ -"
KEY_PATTERN = r"[A-Za-z0-9._:~@-]{1,200}"

_key = re.compile(KEY_PATTERN)
_keys = re.compile(rf"(?:{KEY_PATTERN}\n)*")


def is_key(text: str) -> bool:
    """Whether this is a valid key."""
    return _key.fullmatch(text) is not None


def first_invalid(keys: Iterable[str]) -> str | None:
    """The first that is not a valid key; one regular expression over all of them when all are (the usual case)."""
    keys = list(keys)
    if _keys.fullmatch("\n".join(keys) + "\n") and not any("\n" in key for key in keys):
        return None
    return next((key for key in keys if not is_key(key)), None)
