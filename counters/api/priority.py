"""The `Priority` header (RFC 9218): a structured dictionary (RFC 9651) whose member `u` is the urgency, 0 to 7. Pure.

Increments of urgency 6 and 7 may wait: they go to the excess queue. As the RFC says, a header that is not a dictionary is
ignored, and so is a `u` of another type or out of range.
"""

from __future__ import annotations

import re

from sharding.lanes import EXCESS, FRESH, Queue

DEFAULT_URGENCY = 3
LOW_URGENCY = 6  # from here on it may wait
_MOST_CHARACTERS = 1000

_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE = "|".join(
    (
        r"-?[0-9]{1,12}\.[0-9]{1,3}",  # decimal
        r"@?-?[0-9]{1,15}",  # integer, date
        r'%?"(?:[ !#-\[\]-~]|\\["\\])*"',  # string, display string
        r"[A-Za-z*][A-Za-z0-9!#$%&'*+.^_`|~:/-]*",  # token
        r":[A-Za-z0-9+/=]*:",  # bytes
        r"\?[01]",  # boolean
    )
)
_PARAMETERS = rf"(?:; *{_KEY}(?:=(?:{_BARE}))?)*"
_ITEM = rf"(?:{_BARE}){_PARAMETERS}"
_LIST = rf"\( *(?:{_ITEM}(?: +{_ITEM})*)? *\){_PARAMETERS}"
_MEMBER = re.compile(rf"(?P<key>{_KEY})(?:=(?:{_LIST}|(?P<bare>{_BARE}){_PARAMETERS})|{_PARAMETERS})")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_INTEGER = re.compile(r"-?[0-9]{1,15}")


def urgency(header: str) -> int:
    """The urgency that a header asks for, 0 (first) to 7; 3 if it does not say."""
    if len(header) > _MOST_CHARACTERS:
        return DEFAULT_URGENCY
    text = header.strip(" ")
    found = DEFAULT_URGENCY
    at = 0
    while text:
        member = _MEMBER.match(text, at)
        if member is None:
            return DEFAULT_URGENCY
        if member["key"] == "u":  # the last one counts
            bare = member["bare"] or ""
            found = int(bare) if _INTEGER.fullmatch(bare) and 0 <= int(bare) <= 7 else DEFAULT_URGENCY
        if member.end() == len(text):
            break
        comma = _COMMA.match(text, member.end())
        if comma is None or comma.end() == len(text):
            return DEFAULT_URGENCY
        at = comma.end()
    return found


def queue(header: str | None) -> Queue:
    """The queue of increments with this header."""
    return EXCESS if header is not None and urgency(header) >= LOW_URGENCY else FRESH
