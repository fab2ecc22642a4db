"""The addresses of the API."""

from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from counters.api import probes, views

urlpatterns = [
    path("health", probes.HealthView.as_view(), name="health"),
    path("metrics", probes.metrics, name="metrics"),
    path("v1/schema", SpectacularAPIView.as_view(), name="schema"),
    path("v1/docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("v1/increments", views.BulkIncrementsView.as_view()),
    path("v1/counters", views.CountersView.as_view()),
    path("v1/counters/<str:key>", views.CounterView.as_view()),
    path("v1/counters/<str:key>/increments", views.IncrementsView.as_view()),
    path("v1/writes/<str:write_id>", views.WriteView.as_view()),
]
