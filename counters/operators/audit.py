"""The audit log: who of the staff did what, when, to what, in which request, and what came of it. Rows are only added.

An entry is written before the action, so it is there even if the process dies, and another one with the outcome after it.
PostgreSQL refuses every change of an entry, gives it its number and time, and chains it to the one before by a hash
(`counters/migrations/0016_audit.py`). The log has every entry, too, with its hash: so who can change the table, as a
superuser can, cannot do so unseen. While the control database does not answer, an action goes on, and only the log has it:
a failover must not wait for the database that it is to bring back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import structlog
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, QueryDict
from django.urls import ResolverMatch

from counters.limits.addresses import of_request
from counters.models import AuditEntry
from runtime import request_id

SAFE = ("GET", "HEAD", "OPTIONS", "TRACE")
PERSONAL = ("user",)  # arguments of a URL that name somebody whose removal is to forget the name, too
MOST_DETAIL, MOST_TEXT = 4000, 500  # characters
_SECRET = ("password", "token", "secret")  # in the name of a form's field
BROKEN = """
SELECT id FROM (SELECT entry, id, hash, lag(id, 1, 0::bigint) OVER (ORDER BY id) AS last, lag(hash, 1, '') OVER (ORDER BY id) AS before
                FROM counters_auditentry AS entry) AS chained
WHERE id <> last + 1 OR hash <> audit_hash(before, entry) ORDER BY id LIMIT 1"""
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """`outcome` is empty before the action. `detail`: what was asked, as JSON."""

    by: str
    action: str
    target: str
    detail: str = ""
    outcome: str = ""
    address: str = ""


def append(entry: Entry) -> None:
    """Add an entry, to the log and to the table, if that takes it."""
    texts = {name: _storable(getattr(entry, name)) for name in ("by", "action", "target", "outcome", "address")}
    fields: dict[str, Any] = {**texts, "detail": entry.detail, "request_id": request_id.CURRENT.get()}
    try:
        row = AuditEntry.objects.create(**fields)
        stored = AuditEntry.objects.filter(pk=row.pk).values_list("id", "hash").get()
    except DatabaseError as error:
        connection.close()  # it may lead to the former primary
        log.error("audit_unrecorded", **_logged(fields), error=str(error).strip())
    else:
        log.info("audit", **_logged(fields), entry=stored[0], hash=stored[1])


def is_page(match: ResolverMatch) -> bool:
    """Whether it is a page of the admin."""
    return match.route.startswith("admin/")


def begin(request: HttpRequest, by: str) -> None:
    """Add the entry of what a request of the staff asks for. `end` adds its outcome."""
    match = request.resolver_match
    assert match is not None  # a view runs
    is_personal = any(name in match.kwargs for name in PERSONAL)
    entry = Entry(
        by=by,
        action=f"{request.method} {match.view_name if is_page(match) else match.route}",
        target=f"/{match.route}" if is_personal else request.path,
        detail=_form(request),
        address=of_request(request),
    )
    request.audited = entry  # type: ignore[attr-defined]
    append(entry)


def end(request: HttpRequest, outcome: str) -> None:
    """Add the outcome, if there was a beginning."""
    if (entry := getattr(request, "audited", None)) is not None:
        append(replace(entry, detail="", outcome=outcome))


def first_broken() -> int | None:
    """The first entry that is not as it was written, or follows one that is missing; None if all are whole. Raises
    `django.db.Error`."""
    with connection.cursor() as cursor:
        cursor.execute(BROKEN)
        row: tuple[int] | None = cursor.fetchone()
    return row[0] if row else None


def _form(request: HttpRequest) -> str:
    """The fields of a form, without secrets."""
    match = request.resolver_match
    form = request.POST if match is not None and is_page(match) else QueryDict()
    fields = {
        name: values if len(values) > 1 else values[0]
        for name, values in form.lists()
        if values and not any(word in name.lower() for word in _SECRET)
    }
    return json.dumps(fields)[:MOST_DETAIL] if fields else ""


def _logged(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != "request_id"}


def _storable(text: str) -> str:
    """PostgreSQL's texts cannot have NUL, and half a surrogate pair is no text: neither may keep an entry out."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()[:MOST_TEXT]
