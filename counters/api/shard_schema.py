"""The OpenAPI description of the calls on shards; see `schema`."""

from __future__ import annotations

from django.conf import settings
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema

from counters.api import requests, schema, shard_requests
from counters.api.media import JSON
from counters.api.schema import answers, reference
from replication.steering import Quorum

schema.add_types(shard_requests.TYPES)

_SHARD = OpenApiParameter(
    "shard", {"type": "integer", "enum": list(range(settings.TALLY.shard_count))}, OpenApiParameter.PATH, required=True
)
_NODE = OpenApiParameter(
    "node", {"type": "string", "minLength": 1}, OpenApiParameter.PATH, required=True, description="A node's name."
)
_STEERING = (403, 404, 409, 413, 415)


def _reason(**more: str) -> list[OpenApiExample]:
    return [OpenApiExample("with its reason", {"reason": "disk is to be replaced", **more}, request_only=True)]


shards = extend_schema(
    operation_id="read_shards",
    tags=["shards"],
    responses=answers({200: (shard_requests.Shards, "The shards.")}, 403),
)
replicas = extend_schema(
    operation_id="read_replicas",
    tags=["shards"],
    parameters=[_SHARD],
    responses=answers({200: (shard_requests.Replicas, "The servers of the shard.")}, 403, 404),
)
replica_counters = extend_schema(
    operation_id="read_replica_counters",
    tags=["shards"],
    parameters=[_SHARD, _NODE, schema.PREFIX, *schema.PAGING],
    responses=answers({200: (requests.Counters, "The counters that this server has.")}, 403, 404),
)
quorum = extend_schema(
    operation_id="read_quorum",
    tags=["shards"],
    parameters=[_SHARD],
    responses=answers({200: (Quorum, "The write quorum.")}, 403, 404),
)
set_quorum = extend_schema(
    operation_id="set_quorum",
    tags=["shards"],
    parameters=[_SHARD],
    request={JSON: reference(shard_requests.SetQuorum)},
    responses=answers(
        {200: (Quorum, "In force."), 202: (Quorum, "Asked for; too few replicas follow now to meet it.")},
        *_STEERING,
    ),
)
quorums = extend_schema(
    operation_id="read_quorums",
    tags=["shards"],
    responses=answers({200: (shard_requests.Quorums, "The write quorum of every shard.")}, 403),
)
set_quorums = extend_schema(
    operation_id="set_quorums",
    tags=["shards"],
    request={JSON: reference(shard_requests.SetQuorum)},
    responses=answers(
        {
            200: (shard_requests.Quorums, "In force on every shard."),
            202: (shard_requests.Quorums, "Asked for; not met everywhere yet."),
        },
        *(403, 409, 413, 415),
    ),
)
switchover = extend_schema(
    operation_id="switchover",
    tags=["shards"],
    parameters=[_SHARD],
    request={JSON: reference(shard_requests.Switchover)},
    examples=_reason(),
    responses=answers({200: (shard_requests.Primary, "Done; writes that came meanwhile waited.")}, *_STEERING),
)
failover = extend_schema(
    operation_id="failover",
    tags=["shards"],
    parameters=[_SHARD],
    request={JSON: reference(shard_requests.Failover)},
    examples=_reason(candidate="shard-0-node-2"),
    responses=answers({200: (shard_requests.Primary, "Done.")}, *_STEERING),
)
rejoin = extend_schema(
    operation_id="rejoin",
    tags=["shards"],
    parameters=[_SHARD, _NODE],
    request={JSON: reference(shard_requests.Because)},
    examples=_reason(),
    responses=answers(
        {200: (shard_requests.Begun, "PostgreSQL of this node was restarted, and follows the primary.")}, *_STEERING
    ),
)
reinitialise = extend_schema(
    operation_id="reinitialise",
    tags=["shards"],
    parameters=[_SHARD, _NODE],
    request={JSON: reference(shard_requests.Because)},
    examples=_reason(),
    responses=answers(
        {202: (shard_requests.Begun, "Begun: the node's data are deleted and copied from the primary.")}, *_STEERING
    ),
)
set_apply_delay = extend_schema(
    operation_id="set_apply_delay",
    tags=["shards"],
    parameters=[_SHARD, _NODE],
    request={JSON: reference(shard_requests.SetApplyDelay)},
    examples=[OpenApiExample("at random", {"delay": "50ms..500ms"}, request_only=True)],
    responses=answers({200: (shard_requests.ApplyDelay, "In force.")}, *_STEERING),
)
