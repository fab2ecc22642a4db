"""A Celery task for each write: the view queues it in Redis, a worker of two processes updates the row. Stock settings,
`acks_late`."""

import json
import os
from functools import cache
from typing import Any

import psycopg
from celery import Celery
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

ADD = "UPDATE count SET value = value + %s WHERE key = %s"

app = Celery("bench", broker=os.environ["BENCH_REDIS"], set_as_current=False)
app.conf.update(task_acks_late=True, task_ignore_result=True, broker_connection_retry_on_startup=True)


@cache
def _connection() -> psycopg.Connection[Any]:
    return psycopg.connect(os.environ["BENCH_DSN"], autocommit=True)


@app.task(name="bench.add")
def add(key: str, delta: int) -> None:
    """One write."""
    _connection().execute(ADD, (delta, key))


def increments(request: HttpRequest, key: str) -> JsonResponse:
    delta = json.loads(request.body)["delta"]
    add.delay(key, delta)
    return JsonResponse({"key": key, "delta": delta}, status=202)


urlpatterns = [path("counters/<str:key>/increments", increments)]
if not settings.configured:
    settings.configure(
        SECRET_KEY="bench",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    )
application = get_wsgi_application()
