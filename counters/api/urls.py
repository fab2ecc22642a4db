"""The URLs of the API, under `/v1/`."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from counters.api import digests, documents, shard_views, views


class AnyText(StringConverter):
    """Any text, also empty or with slashes: the view names the rule that it breaks."""

    regex = r"[\s\S]*"


register_converter(AnyText, "any")

urlpatterns = [
    path("counters/<any:key>/increments", views.IncrementsView.as_view()),
    path("counters/<any:key>", views.CounterView.as_view()),
    path("counters", views.CountersView.as_view()),
    path("increments", views.BulkIncrementsView.as_view()),
    path("shards/<any:shard>/digest", digests.DigestView.as_view()),
    path("writes/<any:write_id>", views.WriteView.as_view()),
    path("shards", shard_views.ShardsView.as_view()),
    path("shards/quorum", shard_views.QuorumsView.as_view()),
    path("shards/<str:shard>/quorum", shard_views.QuorumView.as_view()),
    path("shards/<str:shard>/switchover", shard_views.SwitchoverView.as_view()),
    path("shards/<str:shard>/failover", shard_views.FailoverView.as_view()),
    path("shards/<str:shard>/replicas", shard_views.ReplicasView.as_view()),
    path("shards/<str:shard>/replicas/<str:node>/counters", shard_views.ReplicaCountersView.as_view()),
    path("shards/<str:shard>/replicas/<str:node>/rejoin", shard_views.RejoinView.as_view()),
    path("shards/<str:shard>/replicas/<str:node>/reinitialise", shard_views.ReinitialiseView.as_view()),
    path("shards/<str:shard>/replicas/<str:node>/delay", shard_views.ApplyDelayView.as_view()),
    path("schema", documents.SchemaView.as_view(), name="schema"),
    path("docs", documents.DocsView.as_view(url_name="schema"), name="docs"),
]
