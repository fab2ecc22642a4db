"""How long a replica has not followed its primary, and when it is due to be copied again. Pure.

Invariant: a replica is due only after it has shown nothing but trouble for its patience. The clock starts anew with
every sign of hope: the replica has received or replayed something, it is being copied, another node has become the
primary. It also starts anew if nobody has looked for a while, or if the last look is in the future: the journal's
clock, whose times these are, was set back. Patience doubles with each copy, until the replica has followed for as long
as that.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

FOLLOWS = "streaming"
COPIES = frozenset({"creating replica", "initializing new cluster", "running custom bootstrap script"})

STALE_SECONDS = 30.0  # without a look, after which what was seen before says nothing
SHOWN_SECONDS = 5.0  # within which Patroni shows that a copy has begun; until then it shows the state of before
BEGIN_SECONDS = 20.0  # for PostgreSQL to be stopped, and the copy to begin
MOST_SECONDS = 3600.0  # of patience


class Look(NamedTuple):
    """A replica as Patroni sees it: `at` is Unix time in seconds, `position` what it has received and replayed."""

    at: float
    leader: str
    state: str
    position: str

    @property
    def follows(self) -> bool:
        return self.state == FOLLOWS


class Outage(msgspec.Struct, frozen=True):
    """What is remembered of a replica: that it follows, or that it does not, `since` when; and the copies that were
    ordered, the last one at `attempted`. Times are Unix times in seconds."""

    leader: str
    position: str
    seen: float
    since: float
    follows: bool = False
    attempts: int = 0
    attempted: float = 0.0

    def patience(self, seconds: float) -> float:
        """How long it may be in trouble before the next copy; `seconds` before the first."""
        return min(MOST_SECONDS, seconds * 2.0**self.attempts)

    def after_attempt(self, at: float) -> Outage:
        """The outage after a copy was ordered."""
        return msgspec.structs.replace(self, since=at, follows=False, attempts=self.attempts + 1, attempted=at, seen=at)


def after(before: Outage | None, look: Look, seconds: float) -> Outage | None:
    """What is to be remembered after a look. None: nothing, because the replica follows and has for long enough."""
    if before is None:
        return None if look.follows else Outage(look.leader, look.position, look.at, look.at)
    since = before.since if _goes_on(before, look) else look.at
    if look.follows and look.at - since >= (before.patience(seconds) if before.attempts else 0):
        return None
    return msgspec.structs.replace(
        before, leader=look.leader, position=look.position, seen=look.at, since=since, follows=look.follows
    )


def _goes_on(before: Outage, look: Look) -> bool:
    """Whether what was before, following or trouble, has simply lasted."""
    if not 0 <= look.at - before.seen <= STALE_SECONDS or look.follows != before.follows:
        return False
    same = (before.leader, before.position) == (look.leader, look.position)
    return look.follows or (look.state not in COPIES and same)


def is_due(outage: Outage, look: Look, seconds: float) -> bool:
    """Whether a replica that does not follow is to be copied again, with a patience of `seconds` before the first
    copy."""
    lasted = look.at - outage.since
    return not look.follows and look.state not in COPIES and lasted >= outage.patience(seconds)


def may_repeat(outage: Outage | None, at: float, seconds: float) -> bool:
    """Whether a replica that follows, but differs, may be copied now: the pause after the last copy is over."""
    return outage is None or not 0 <= at - outage.attempted < outage.patience(seconds)


def is_being_copied(outage: Outage | None, look: Look) -> bool:
    """Whether a copy is being made, or was ordered and has not begun yet."""
    if look.state in COPIES:
        return True
    ago = look.at - outage.attempted if outage else BEGIN_SECONDS
    return 0 <= ago < (SHOWN_SECONDS if look.follows else BEGIN_SECONDS)
