"""A Django view that does nothing, without middleware: what the server and the framework cost."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

settings.configure(SECRET_KEY="bench", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[])


def empty(_request: HttpRequest, key: str) -> HttpResponse:  # noqa: ARG001
    return HttpResponse(b"{}", content_type="application/json", headers={"Content-Length": "2"})


urlpatterns = [path("counters/<str:key>", empty)]
application = get_wsgi_application()
