"""The addresses of the API."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from counters.api import documents, probes, shard_views, views


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
    path("v1/writes/<any:write_id>", views.WriteView.as_view()),
    path("v1/shards", shard_views.ShardsView.as_view()),
    path("v1/shards/quorum", shard_views.QuorumsView.as_view()),
    path("v1/shards/<str:shard>/quorum", shard_views.QuorumView.as_view()),
    path("v1/shards/<str:shard>/switchover", shard_views.SwitchoverView.as_view()),
    path("v1/shards/<str:shard>/failover", shard_views.FailoverView.as_view()),
    path("v1/shards/<str:shard>/replicas", shard_views.ReplicasView.as_view()),
    path("v1/shards/<str:shard>/replicas/<str:node>/rejoin", shard_views.RejoinView.as_view()),
    path("v1/shards/<str:shard>/replicas/<str:node>/reinitialise", shard_views.ReinitialiseView.as_view()),
    path("v1/shards/<str:shard>/replicas/<str:node>/delay", shard_views.ApplyDelayView.as_view()),
]
