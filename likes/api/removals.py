"""The calls on removals of users, for keys with the scope `staff`."""

from __future__ import annotations

from typing import Any, ClassVar
from uuid import UUID, uuid4, uuid5

from django.core.exceptions import ValidationError
from django.db import OperationalError
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError
from rest_framework.request import Request

from counters.api.authentication import Caller
from counters.api.base import ApiView, Response
from counters.api.problems import Problem, unavailable
from counters.api.views import claim_of, refuse_condition
from counters.models import Scope
from likes import removals
from likes.api import requests, schema
from likes.api.views import LikedView, checked_user
from likes.models import Removal

_IDS = UUID("5b0c8f4e-6f0f-4d8e-9d8b-3f6f0c1f8a11")  # of requests with an Idempotency-Key


class UserView(LikedView):
    """One user."""

    scopes: ClassVar[dict[str, str]] = {"DELETE": Scope.STAFF}

    @schema.remove
    def delete(self, request: Request, user: str) -> Response:
        """Remove every like of a user, and correct every count, as a task. The event log forgets the user, too."""
        checked_user(user)
        refuse_condition(request)
        claim, caller = claim_of(request), request.user
        id = uuid4() if claim is None else uuid5(_IDS, f"{claim.token.hex()} {user}")
        by = f"API key {caller.name} ({caller.prefix})" if isinstance(caller, Caller) else "unknown"
        try:
            found = removals.ask(user, by, id)
        except OperationalError as error:
            raise unavailable("control-database-unavailable", str(error)) from error
        except RedisError as error:
            raise unavailable("journal-unavailable", f"{error}. Nothing was removed; ask again.") from error
        except (BrokerError, OSError):  # beat sends the task
            found = removals.find(id)
        return Response(_shown(found), 202, {"Location": f"/v1/removals/{found.id}"})


class RemovalView(ApiView):
    """One removal."""

    scopes: ClassVar[dict[str, str]] = {"GET": Scope.STAFF}

    @schema.removal
    def get(self, _request: Request, id: str) -> Response:
        """How far a removal is."""
        try:
            return Response(_shown(removals.find(id)))
        except (Removal.DoesNotExist, ValidationError):
            raise Problem(404, "unknown-removal", f"There is no removal {id[:40]!r}.") from None
        except OperationalError as error:
            raise unavailable("control-database-unavailable", str(error)) from error


def _shown(removal: Removal) -> Any:
    return requests.Removal(
        id=str(removal.id),
        user=removal.user or None,
        state=Removal.State(removal.state).value,
        total=removal.total,
        done=removal.done,
        detail=removal.detail,
        asked_at=removal.asked_at.isoformat(),
        ended_at=removal.ended_at.isoformat() if removal.ended_at else None,
    )
