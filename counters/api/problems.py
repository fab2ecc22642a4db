"""Problem documents (RFC 9457) for every error of the API, whatever code raises it.

`type` is `urn:tally:problem:<slug>`; a bad request has `errors`, each with the `field` and the `rule` it breaks.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
import structlog
from django.core.exceptions import PermissionDenied, RequestDataTooBig, TooManyFieldsSent
from django.http import Http404, HttpRequest, HttpResponse
from prometheus_client import Counter
from rest_framework import exceptions

from counters.intake.admission import RULES, Limited
from counters.intake.idempotency import Mismatch
from counters.intake.journal import JournalUnavailable, JournalUnreadable
from counters.intake.room import NoRoom
from counters.limits.limiter import QuotaExceeded
from replication.patroni import PatroniUnavailable, Refused, UnknownNode
from runtime.seldom import Seldom
from sharding.databases import ShardUnavailable
from sharding.topology import NoTopology

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_SECONDS = "1"
MOST_SHOWN = 200  # characters of a name or value that a document repeats
MOST_DETAIL = 1000  # characters of a whole sentence
MOST_KEYS = 100  # that a document names
LIMITED_RETRY_SECONDS = 2  # after a limit was reached; a sliding window lets some through at any time
PROBLEMS = Counter("tally_problems_total", "Requests answered with a problem document", ["status", "problem"])
log = structlog.get_logger(__name__)
_seldom = Seldom()


def shortened(text: str, most: int = MOST_SHOWN) -> str:
    """A text as a document may repeat it: at most `most` characters, with "…" at the end if cut."""
    return text if len(text) <= most else text[: most - 1] + "…"


class Problem(Exception):
    """A request that cannot be fulfilled. `errors` name fields and rules, `extra` has further members of the document.

    `detail` and `errors` are cut, so the document is short whatever a client sends.
    """

    def __init__(  # noqa: PLR0913 - the members of a problem document
        self,
        status: int,
        slug: str,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.slug, self.detail = status, slug, shortened(detail, MOST_DETAIL)
        self.errors = [{name: shortened(text) for name, text in error.items()} for error in errors or ()]
        self.headers, self.extra = headers or {}, extra or {}

    def document(self) -> dict[str, Any]:
        """The members of the document."""
        title = self.slug.replace("-", " ").capitalize()
        document = {
            "type": f"urn:tally:problem:{self.slug}",
            "title": title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.errors:
            document["errors"] = self.errors
        return document | self.extra


_BUG = Problem(500, "internal-error", "Something went wrong; it was logged.")


def invalid(field: str, rule: str) -> Problem:
    """400: a field breaks a rule."""
    field, rule = shortened(field), shortened(rule)
    return Problem(400, "invalid-request", f"{field}: {rule}", errors=[{"field": field, "rule": rule}])


def unavailable(slug: str, detail: str, **extra: Any) -> Problem:
    """503: a component is down; try again soon."""
    return Problem(503, slug, detail, headers={"Retry-After": RETRY_AFTER_SECONDS}, extra=extra)


def too_many(slug: str, detail: str, errors: list[dict[str, str]], *, seconds: int, **extra: Any) -> Problem:
    """429: a limit was reached, and nothing was done. `errors` name what is limited and the rule. Try again in `seconds`."""
    return Problem(429, slug, detail, errors=errors, headers={"Retry-After": str(seconds)}, extra=extra)


def of(error: BaseException) -> Problem | None:  # noqa: PLR0911, PLR0912 - a table
    """The problem for an exception, or None for a bug."""
    match error:
        case Problem():
            return error
        case Mismatch():
            return Problem(
                422, "idempotency-key-reused", str(error), errors=[{"field": "Idempotency-Key", "rule": str(error)}]
            )
        case QuotaExceeded():
            return over(error)
        case Limited():
            return _limited(error)
        case NoRoom():
            shard = {} if error.shard is None else {"shard": error.shard}
            return unavailable("disk-full", f"{error}. Reads go on.", **shard)
        case JournalUnreadable():
            detail = "What became of the write cannot be told now; ask again."
            return unavailable("journal-unavailable", f"{error}. {detail}")
        case JournalUnavailable():
            detail = "The write may or may not have been accepted; repeat it with the same Idempotency-Key to be sure."
            return unavailable("journal-unavailable", f"{error}. {detail}")
        case ShardUnavailable():
            return unavailable("shard-unavailable", str(error), shard=error.shard)
        case NoTopology():
            return unavailable("no-topology", str(error))
        case PatroniUnavailable():
            return unavailable("patroni-unavailable", str(error), shard=error.shard)
        case UnknownNode():
            return Problem(404, "unknown-node", str(error))
        case Refused():
            return Problem(409, "refused", str(error))
        case RequestDataTooBig():
            return Problem(413, "payload-too-large", "The body is larger than allowed.")
        case TooManyFieldsSent():
            return invalid("query", "too many parameters")
        case Http404():
            return Problem(404, "not-found", str(error) or "There is nothing at this address.")
        case PermissionDenied():
            return Problem(403, "forbidden", str(error) or "Not allowed.")
        case exceptions.APIException():
            challenge = getattr(error, "auth_header", None)
            headers = {"WWW-Authenticate": challenge} if challenge else {}
            slug = HTTPStatus(error.status_code).phrase.lower().replace(" ", "-")
            return Problem(error.status_code, slug, str(error.detail), headers=headers)
    return None


def over(error: QuotaExceeded) -> Problem:
    """A caller is over its quota. With the member that the draft of the `RateLimit` headers registers for it."""
    policy = error.policy
    advice = f"try again in {error.seconds} s" if error.wanted <= policy.quota else "split the request"
    return too_many(
        "quota-exceeded",
        f"{policy.name}: {error}; {advice}.",
        [{"field": policy.name, "rule": str(error)}],
        seconds=error.seconds,
        **{"violated-policies": [policy.name]},
    )


def _limited(error: Limited) -> Problem:
    """Limits of counters or of a lane: names the keys, up to a hundred, and the rule that each breaks."""
    errors = [{"field": key, "rule": f"{rule}: {RULES[rule]}"} for rule, keys in error.refused.items() for key in keys]
    slug = "backlog-full" if set(error.refused) == {"backlog"} else "too-many-increments"
    text = "; ".join(f"{rule}: {RULES[rule]}" for rule in error.refused)
    detail = f"Nothing of this write was accepted ({text}). Other keys are taken as usual."
    return too_many(slug, detail, errors[:MOST_KEYS], seconds=LIMITED_RETRY_SECONDS)


def handle(error: Exception, _context: dict[str, Any]) -> HttpResponse | None:
    """DRF's EXCEPTION_HANDLER. A problem is JSON, whatever else the view renders. DRF adds `Allow` to every answer."""
    problem = of(error)
    return None if problem is None else response(problem)


def response_to(error: Exception) -> HttpResponse:
    """The answer for an exception outside DRF and Django. Logs a bug."""
    problem = of(error)
    if problem is None:
        log.error("request_broken", exc_info=error)
    return response(problem or _BUG)


def count(problem: Problem) -> None:
    """Count an answered problem, and log one of Tally's own."""
    PROBLEMS.labels(problem.status, problem.slug).inc()
    if problem.status >= 500:
        _seldom.log(log.warning, "unavailable", problem=problem.slug, detail=problem.detail)


def response(problem: Problem) -> HttpResponse:
    """The answer for a problem, which is also counted."""
    count(problem)
    return encoded(problem)


def encoded(problem: Problem) -> HttpResponse:
    """The answer for a problem."""
    document = msgspec.json.encode(problem.document())
    return HttpResponse(document, status=problem.status, headers=problem.headers, content_type=MEDIA_TYPE)


def not_found(_request: HttpRequest, exception: Exception | None = None) -> HttpResponse:  # noqa: ARG001 - Django calls it by name
    """Django's handler404."""
    return response(Problem(404, "not-found", "There is nothing at this address."))


def bad_request(_request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    """Django's handler400."""
    known = of(exception) if exception else None
    return response(known or Problem(400, "invalid-request", "The request could not be understood."))


def server_error(_request: HttpRequest) -> HttpResponse:
    """Django's handler500: a bug. Accepted writes are safe; others can be repeated with the same Idempotency-Key."""
    return response(_BUG)
