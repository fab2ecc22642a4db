"""/status: the whole system in one live picture (`counters.operators.status`), for people.

The page has all of it without JavaScript. With it, /status/live sends what has changed every second, as the HTML of parts
of the page, so both are made by the same templates. Staff see names of processes, addresses, counters and people; others
what /health tells, and sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from secrets import token_urlsafe
from typing import NamedTuple

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.utils.crypto import constant_time_compare, salted_hmac

from counters.api import pages, problems
from counters.api.live import Frames, Live
from counters.api.pages import read_only
from counters.api.problems import unavailable
from counters.operators import recording, status
from counters.operators.status import Figure
from counters.second_factor import devices
from runtime.resources import owned

FRAMES = ("clock", "now", "troubles", "figures", "shards", "parts", "processes", "lanes", "breakers", "events")
STAFF_FRAMES = ("staff",)
COOKIE = "tally_status"
_COOKIE_SECONDS = 12 * 3600
WIDTH, HEIGHT = 300, 64  # of a chart, in its own units
_MOST_LANES = 32
_EVENTS = 15
log = structlog.get_logger(__name__)


class Tool(NamedTuple):
    """A link to another program's pages, and what it shows."""

    name: str
    url: str
    shows: str


@read_only
def page(request: HttpRequest) -> HttpResponse:
    """`/status`."""
    staff, nonce = is_staff(request), token_urlsafe(16)
    shown = frames(staff)
    context = {"nonce": nonce, **shown, "staff": staff, "staff_part": shown.get("staff", "")}
    context["tools"] = tools(settings.TALLY.flower_url, settings.TALLY.prometheus_url, settings.TALLY.grafana_url)
    headers = {"Content-Security-Policy": pages.policy(nonce), "Cache-Control": "no-store", "Vary": "Cookie"}
    response = TemplateResponse(request, "counters/status.html", context, headers=headers)
    if staff:
        keep_proof(response, request)
    elif COOKIE in request.COOKIES:
        response.delete_cookie(COOKIE, path="/status")
    return response


def tools(flower: str, prometheus: str, grafana: str) -> list[Tool]:
    """Pages of other programs, those that have an address."""
    known = (Tool("Flower", flower, "each task"), Tool("Prometheus", prometheus, ""), Tool("Grafana", grafana, ""))
    return [tool for tool in known if tool.url]


@read_only
def live(request: HttpRequest) -> HttpResponse | StreamingHttpResponse:
    """`/status/live`: server-sent events, each with the HTML of the parts of the page that have changed. 503 while this
    process has as many viewers as it may have."""
    if _live().is_full:
        problem = unavailable("too-many-viewers", "As many as this process serves watch already.")
        problem.headers["Retry-After"] = "5"
        return problems.response(problem)
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    if request.method == "HEAD":
        return HttpResponse(headers=headers)
    return StreamingHttpResponse(_live().watch(is_staff(request)), headers=headers)


@owned
def _live() -> Live:
    return Live(settings.TALLY.status_viewers, _watched)


def _watched(staff: bool) -> Frames:
    """The frames. Nobody else may be there to record what has changed."""
    shown = frames(staff)
    recording.stand_in(f"viewed by {settings.TALLY.node_id}", status.look().result())
    return shown


def is_staff(request: HttpRequest) -> bool:
    """Whether the caller is logged in to the admin, with a second factor where one is needed. While the control database,
    which has the sessions, does not answer, a browser counts that has shown so with the same session within the last
    hours."""
    session = request.COOKIES.get(settings.SESSION_COOKIE_NAME)
    if not session:
        return False
    try:
        return bool(request.user.is_staff) and not devices.is_missing(request)  # an inactive user has no session
    except DatabaseError as error:
        log.warning("status_staff_unknown", error=str(error).strip())
        shown = request.get_signed_cookie(COOKIE, default="", max_age=_COOKIE_SECONDS) or ""
        return constant_time_compare(shown, _proof(session))


def keep_proof(response: HttpResponse, request: HttpRequest) -> None:
    """Have a browser of staff show that it is one while the control database is away."""
    response.set_signed_cookie(
        COOKIE,
        _proof(request.COOKIES.get(settings.SESSION_COOKIE_NAME, "")),
        max_age=_COOKIE_SECONDS,
        path="/status",
        secure=request.is_secure(),
        httponly=True,
        samesite="Lax",
    )


def _proof(session: str) -> str:
    """What a browser of staff keeps. It says nothing without the session's own cookie, which a log-out deletes."""
    return salted_hmac(__name__, session, algorithm="sha256").hexdigest()


def frames(staff: bool) -> Frames:
    """The parts of the page, for staff or for anybody, from a look that is about a second old at most."""
    found = status.look().result()
    shown = found if staff else status.public(found)
    context = {
        "found": shown,
        "staff": staff,
        "at": datetime.fromtimestamp(shown.at, UTC),
        "troubles": shown.troubles,
        "charts": [chart(figure) for figure in shown.figures],
        "lanes": (shown.lanes or [])[:_MOST_LANES],
        "more_lanes": max(0, len(shown.lanes or ()) - _MOST_LANES),
        "events": [(datetime.fromtimestamp(one.at, UTC), one) for one in (shown.events or ())[:_EVENTS]],
        "orders": [(datetime.fromtimestamp(one.at, UTC), one) for one in shown.orders or ()],
    }
    names = FRAMES + STAFF_FRAMES if staff else FRAMES
    return {name: render_to_string(f"counters/status/{name}.html", context) for name in names}


class Chart(NamedTuple):
    """A figure as it is drawn: `line` and `area` are paths of SVG."""

    title: str
    now: str
    most: str
    line: str
    area: str


def chart(figure: Figure) -> Chart:
    """The drawing of a figure; a gap where it is not known. The highest value may be the one of now, which no bucket has
    yet."""
    known = [value for value in (*figure.values, figure.now) if value is not None]
    most = max(known, default=0.0)
    runs = _runs(figure.values, most or 1.0)
    line = " ".join(f"M{' L'.join(f'{x:g} {y:g}' for x, y in run)}" for run in runs)
    area = " ".join(
        f"M{run[0][0]:g} {HEIGHT} L{' L'.join(f'{x:g} {y:g}' for x, y in run)} L{run[-1][0]:g} {HEIGHT}Z"
        for run in runs
    )
    now = "unknown" if figure.now is None else measured(figure.now, figure.unit)
    return Chart(figure.title, now, measured(most, figure.unit) if known else "unknown", line, area)


def _runs(values: Sequence[float | None], most: float) -> list[list[tuple[float, float]]]:
    """The points that are known, without gaps in a run."""
    step = WIDTH / max(1, len(values) - 1)
    runs: list[list[tuple[float, float]]] = [[]]
    for place, value in enumerate(values):
        if value is None:
            runs.append([])
        else:
            runs[-1].append((round(place * step, 1), round(HEIGHT - 2 - (HEIGHT - 4) * value / most, 1)))
    return [run for run in runs if run]


def measured(value: float, unit: str) -> str:
    """A number and its unit."""
    return f"{short(value)} {unit}" if unit and unit != "/s" else f"{short(value)}{unit}"


def short(value: float) -> str:
    """A number for people: three digits or so."""
    if value >= 9_999_500:
        return f"{value / 1e6:,.1f} M"
    if value >= 99_950:
        return f"{value / 1e3:,.0f} k"
    if value >= 10 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}"
