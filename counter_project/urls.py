"""All URLs: the front page, the API and the admin."""

from django.conf import settings
from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

from counters.admin import second_factor
from counters.admin.login import login
from counters.api import pages, probes, status

admin.autodiscover()
handler400 = "counters.api.problems.bad_request"
handler404 = "counters.api.problems.not_found"
handler500 = "counters.api.problems.server_error"

urlpatterns = [
    path("v1/", include("counters.api.urls")),  # first, because it gets the most calls
    path("v1/", include("likes.api.urls")),
    path("", pages.index, name="index"),
    path("favicon.ico", pages.favicon),
    path("status", status.page, name="status"),
    path("status/live", status.live),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/login/", login),  # before the admin's own log-in, which has no rate limit
    path("admin/second-factor/", second_factor.page, name="second-factor"),
    path("admin/", admin.site.urls),
    path("livez", probes.LiveView.as_view()),
    path("readyz", probes.ReadyView.as_view()),
    path("health", probes.HealthView.as_view(), name="health"),
    path("metrics", probes.MetricsView.as_view(), name="metrics"),
]
if settings.TALLY.demo_pages:
    urlpatterns += [path("demo/", include("likes.demo"))]
