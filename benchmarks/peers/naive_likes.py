"""Likes as most applications have them: a row a like under a unique constraint, and a count that is updated with `F()`, in one
transaction."""

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
        "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
        "UNAUTHENTICATED_USER": None,
    },
)

from django.core.wsgi import get_wsgi_application  # noqa: E402

application = get_wsgi_application()

from django.db import models, transaction  # noqa: E402
from django.db.models import F  # noqa: E402
from django.urls import path  # noqa: E402
from rest_framework.request import Request  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Count(models.Model):
    """The number of likes of an item (`house.TABLE`)."""

    key = models.CharField(max_length=200, primary_key=True)
    value = models.BigIntegerField(default=0)

    objects: ClassVar[models.Manager["Count"]] = models.Manager()

    class Meta:
        app_label = "bench"
        db_table = "count"
        managed = False


class Like(models.Model):
    """A user likes an item; the table is in `raw_likes`."""

    id = models.BigAutoField(primary_key=True)
    item = models.CharField(max_length=200)
    user_id = models.CharField(max_length=200)
    since = models.DateTimeField(auto_now_add=True)

    objects: ClassVar[models.Manager["Like"]] = models.Manager()

    class Meta:
        app_label = "bench"
        db_table = "likes"
        managed = False
        unique_together: ClassVar[list[tuple[str, ...]]] = [("item", "user_id")]


class LikeView(APIView):
    @transaction.atomic
    def put(self, request: Request, item: str, user: str) -> Response:  # noqa: ARG002
        _, is_new = Like.objects.get_or_create(item=item, user_id=user)
        if is_new and not Count.objects.filter(key=item).update(value=F("value") + 1):
            Count.objects.create(key=item, value=1)
        return Response({"item": item, "user": user, "liked": True})


urlpatterns = [path("likes/<str:item>/users/<str:user>", LikeView.as_view())]
