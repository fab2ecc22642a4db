"""Counting as Django's documentation has it: one row a counter, `F("value") + delta`, answered when it is committed."""

import json
import os
from typing import ClassVar

from django.conf import settings

settings.configure(
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["rest_framework"],
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # it gives the Content-Length
    DATABASES={
        "default": {**json.loads(os.environ["BENCH_DATABASE"]), "OPTIONS": {"pool": {"min_size": 10, "max_size": 10}}}
    },
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": [],
        "DEFAULT_PERMISSION_CLASSES": [],
        "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
)

from django.core.wsgi import get_wsgi_application  # noqa: E402

application = get_wsgi_application()

from django.db import models  # noqa: E402
from django.db.models import F  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework import serializers  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Count(models.Model):
    """A counter; the table is made by the bench (`house.TABLE`)."""

    key = models.CharField(max_length=200, primary_key=True)
    value = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager["Count"]] = models.Manager()

    class Meta:
        app_label = "bench"
        db_table = "count"
        managed = False


class Increment(serializers.Serializer):  # type: ignore[type-arg]
    delta = serializers.IntegerField()


class IncrementsView(APIView):
    def post(self, request: Request, key: str) -> Response:
        body = Increment(data=request.data)
        body.is_valid(raise_exception=True)
        delta = body.validated_data["delta"]
        if not Count.objects.filter(key=key).update(value=F("value") + delta):
            Count.objects.create(key=key, value=delta)
        return Response({"key": key, "delta": delta})


urlpatterns = [path("counters/<str:key>/increments", IncrementsView.as_view())]
