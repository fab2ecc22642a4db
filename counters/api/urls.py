"""The addresses of the API, behind `/v1/`."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from counters.api import digests, documents, views


class AnyText(StringConverter):
    """Whatever stands there, nothing and slashes as well: the view says which rule it breaks."""

    regex = r"[\s\S]*"


register_converter(AnyText, "any")

urlpatterns = [
    path("counters/<any:key>/increments", views.IncrementsView.as_view()),
    path("counters/<any:key>", views.CounterView.as_view()),
    path("counters", views.CountersView.as_view()),
    path("increments", views.BulkIncrementsView.as_view()),
    path("shards/<any:shard>/digest", digests.DigestView.as_view()),
    path("writes/<any:write_id>", views.WriteView.as_view()),
    path("schema", documents.SchemaView.as_view(), name="schema"),
    path("docs", documents.DocsView.as_view(url_name="schema"), name="docs"),
]
