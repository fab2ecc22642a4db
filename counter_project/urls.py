"""All addresses: the API, the admin, and a way from the front page to the documentation."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

handler400 = "counters.api.problems.bad_request"
handler404 = "counters.api.problems.not_found"
handler500 = "counters.api.problems.server_error"

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="docs")),
    path("admin/", admin.site.urls),
    path("", include("counters.api.urls")),
]
