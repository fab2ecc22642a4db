"""The addresses of the API."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from counters.api import digests, documents, probes, views


class AnyText(StringConverter):
    """Whatever stands there, nothing and slashes as well: the view says which rule it breaks."""

    regex = r"[\s\S]*"


register_converter(AnyText, "any")

urlpatterns = [
    path("health", probes.HealthView.as_view(), name="health"),
    path("metrics", probes.MetricsView.as_view(), name="metrics"),
    path("v1/schema", documents.SchemaView.as_view(), name="schema"),
    path("v1/docs", documents.DocsView.as_view(url_name="schema"), name="docs"),
    path("v1/increments", views.BulkIncrementsView.as_view()),
    path("v1/counters", views.CountersView.as_view()),
    path("v1/counters/<any:key>/increments", views.IncrementsView.as_view()),
    path("v1/counters/<any:key>", views.CounterView.as_view()),
    path("v1/shards/<any:shard>/digest", digests.DigestView.as_view()),
    path("v1/writes/<any:write_id>", views.WriteView.as_view()),
]
