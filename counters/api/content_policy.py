"""The Content-Security-Policy of pages, by django-csp."""

from __future__ import annotations

from csp.middleware import CSPMiddleware
from django.http import HttpRequest
from django.http.response import HttpResponseBase


class ContentPolicy(CSPMiddleware):
    """Middleware: `settings.CONTENT_SECURITY_POLICY` for each page that has no policy of its own. Answers of the API are
    no pages, and are not made longer."""

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        # 204 has Django's default content type and no content; the fast path takes its headers from such an answer.
        is_page = response.status_code != 204 and response.headers.get("Content-Type", "").startswith("text/html")
        return super().process_response(request, response) if is_page else response
