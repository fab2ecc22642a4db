"""The front page: an introduction, first calls, and a counter to try. It loads no other files."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from secrets import token_urlsafe

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.response import TemplateResponse
from django.views.decorators.csrf import csrf_exempt

from counters.api import problems
from counters.api.problems import Problem

View = Callable[[HttpRequest], HttpResponseBase]
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><path d="M3 2v12M6 2v12M9 2v12M12 2v12M1 12 15 4" '
    'stroke="#0f766e" stroke-width="1.6" stroke-linecap="round"/></svg>'
)


def read_only(view: View) -> View:
    """A view of GET and HEAD only; 405 for any other method."""

    @csrf_exempt
    @wraps(view)
    def checked(request: HttpRequest) -> HttpResponseBase:
        if request.method in ("GET", "HEAD"):
            return view(request)
        detail = f'Method "{request.method}" not allowed.'
        return problems.response(Problem(405, "method-not-allowed", detail, headers={"Allow": "GET, HEAD"}))

    return checked


@read_only
def favicon(_request: HttpRequest) -> HttpResponse:
    """`/favicon.ico`, which browsers request for every page: an SVG."""
    return HttpResponse(ICON, content_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


@read_only
def index(request: HttpRequest) -> HttpResponse:
    """`/`, with a content security policy that allows only this page's own script and style, and calls to this API."""
    nonce = token_urlsafe(16)
    context = {"nonce": nonce, "url": f"{request.scheme}://{request.get_host()}", "demos": settings.TALLY.demo_pages}
    headers = {"Content-Security-Policy": policy(nonce)}
    return TemplateResponse(request, "counters/index.html", context, headers=headers)


def policy(nonce: str) -> str:
    """The content security policy of a page whose own script and style have this nonce, and which calls this API."""
    own = f"'nonce-{nonce}'"
    rules = f"default-src 'none'; script-src {own}; style-src {own}; img-src 'self'; connect-src 'self'"
    return f"{rules}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
