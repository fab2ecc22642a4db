"""The call on a shard's digest: whether its replicas and the cache agree with its primary."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError
from rest_framework.request import Request

from counters.api import schema, waiting
from counters.api.base import ApiView, Response
from counters.api.problems import unavailable
from counters.api.shard_views import shard_of
from counters.models import Scope
from counters.reconciliation import rounds
from counters.reconciliation.rounds import Report
from replication.digest import Difference
from replication.digests import Comparison
from replication.tables import COUNTER


class DigestView(ApiView):
    """A shard's digest."""

    scopes: ClassVar[dict[str, str]] = {"GET": Scope.STAFF}

    @schema.digest
    def get(self, request: Request, shard: str) -> Response:
        """Whether a shard's replicas and the cache agree with its primary. With `wait`, or if no result is known, they
        are compared now."""
        number, seconds = shard_of(shard), waiting.seconds(request)
        found = None if seconds else rounds.last(number)
        found = found or _fresh(number, seconds)
        return Response(shown(found)) if found else Response({"shard": number, "status": "queued"}, 202)


def _fresh(shard: int, seconds: float) -> Report | None:
    try:
        return rounds.wait(shard, rounds.request([shard]), seconds)
    except RedisError as error:
        raise unavailable(
            "cache-unavailable", f"The cache's Redis, which keeps the results, does not answer: {error}"
        ) from error
    except (OperationalError, OSError) as error:
        raise unavailable("broker-unavailable", f"The broker did not take the task: {error}") from error


def shown(report: Report) -> dict[str, Any]:
    """A report as the API shows it."""
    compared, cached = report.replicas, report.cache
    found = {
        name: getattr(compared, name, None) for name in ("primary", "digest", "version", "lsn", "counters", "seconds")
    }
    return {
        "shard": report.shard,
        "equal": report.equal,
        "at": report.at.isoformat(),
        "detail": report.detail,
        **found,
        "rows": compared.rows if compared else {},
        "replicas": [_replica(one) for one in compared.comparisons] if compared else [],
        "altered_slots": list(compared.altered) if compared else [],
        "cache": {name: getattr(cached, name) for name in ("checked", "stale", "wrong", "keys", "detail")},
        "checks": {name: asdict(one) for name, one in report.checks.items()},
    }


def _replica(one: Comparison) -> dict[str, Any]:
    same = {name: getattr(one, name) for name in ("node", "equal", "detail", "version", "lsn", "digest", "counters")}
    counters = [_difference(difference) for difference in one.differences if difference.table == COUNTER.name]
    rows = [difference._asdict() for difference in one.differences if difference.table != COUNTER.name]
    found = {"differing_keys": one.differing, "differences": counters, "differing_rows": rows}
    return {**same, "at": one.at.isoformat(), **found}


def _difference(difference: Difference) -> dict[str, Any]:
    def held(row: tuple[Any, ...] | None) -> dict[str, int] | None:
        return None if row is None else {"value": row[0], "version": row[1]}

    return {"key": difference.key, "primary": held(difference.primary), "replica": held(difference.replica)}
