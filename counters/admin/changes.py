"""A user's change in the admin: a write like any other, and its outcome in a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import msgspec
from django.conf import settings
from django.contrib import messages

from counters import service
from counters.batch import Step
from counters.intake import idempotency, writes
from counters.intake.journal import JournalUnavailable
from counters.outcome import REASONS, Outcome
from counters.reading import write_status
from sharding.databases import ShardUnavailable
from sharding.topology import NoTopology

WAIT_SECONDS = 10.0  # the user's browser shows nothing meanwhile


@dataclass(frozen=True, slots=True)
class Result:
    """`what`: the change, in words. `sentence`: its outcome. `final`: sending the same form again would change
    nothing."""

    what: str
    sentence: str
    level: int
    accepted: bool = True
    final: bool = True


def make(step: Step, token: UUID, user: object) -> Result:
    """Put a step into the journal and wait for its outcome. A form sent twice, with the same `token`, counts once."""
    claim = idempotency.claim(f"admin:{user}", str(token), "POST", step.key, msgspec.json.encode(step))
    what = _in_words(step)
    try:
        write = writes.step(step, claim)
        accepted = service.current().submit(write)
    except idempotency.Mismatch:
        text = "Not done: this form was sent before, with another change. Here it is afresh."
        return Result(what, text, messages.ERROR, accepted=False)
    except (JournalUnavailable, ShardUnavailable, NoTopology) as error:
        text = f"It may or may not have been accepted ({error}). Send the form again: it is counted once."
        return Result(what, text, messages.ERROR, accepted=False, final=False)
    outcome = write_status.wait(
        accepted.id, min(WAIT_SECONDS, settings.TALLY.max_wait_seconds), None if accepted.repeated else write.outcome
    )
    if outcome is None:
        return Result(what, f"Still queued, and safe: write {accepted.id}.", messages.WARNING)
    again = " (This form was sent before, and is counted once.)" if accepted.repeated else ""
    if outcome.status == "rejected":
        return Result(what, f"Rejected: {_reason(outcome)}.{again}", messages.ERROR)
    return Result(
        what, f"Applied: the value is {outcome.value}, the version {outcome.version}.{again}", messages.SUCCESS
    )


def _in_words(step: Step) -> str:
    what = {"set": f"Set to {step.operand}", "increment": f"Add {step.operand}", "reset": "Reset to 0"}[step.kind]
    return f"{what}, if the version is {step.if_version}." if step.if_version is not None else f"{what}."


def _reason(outcome: Outcome) -> str:
    if outcome.reason == "version":
        return f"it was written meanwhile; its value is {outcome.value} and its version {outcome.version}"
    return REASONS.get(outcome.reason or "", str(outcome.reason))
