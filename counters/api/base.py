"""What every view of the API has in common."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponse
from rest_framework.request import Request
from rest_framework.views import APIView


class ApiView(APIView):
    """A view whose OPTIONS tells the methods (`Allow`, as every answer does) and nothing else."""

    def options(self, _request: Request, *_args: Any, **_kwargs: Any) -> HttpResponse:  # type: ignore[override]
        """204 and `Allow`."""
        return HttpResponse(status=204)
