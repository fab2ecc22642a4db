"""Models: removals of users, in the control database. Likes have no table in this database: see the shards' migration."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.db import models

from likes.names import MAX_NAME


class Removal(models.Model):
    """A user whose likes are removed: all that were accepted before the request. The name is forgotten at the end, too."""

    class State(models.TextChoices):
        QUEUED = "queued", "queued"
        RUNNING = "running", "running"
        DONE = "done", "done"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    user = models.CharField(max_length=MAX_NAME, blank=True, help_text="Empty when it is done.")
    position = models.BigIntegerField(help_text="The journal's clock at the request, in microseconds.")
    state = models.CharField(max_length=10, choices=State.choices, default=State.QUEUED)
    total = models.BigIntegerField(null=True, help_text="Likes and unlikes found; empty before.")
    done = models.BigIntegerField(default=0, help_text="Of these, removed so far.")
    detail = models.TextField(blank=True, help_text="What it waits for.")
    by = models.CharField("asked by", max_length=200, blank=True)
    asked_at = models.DateTimeField(auto_now_add=True)
    ended_at = models.DateTimeField(null=True)

    class Meta:
        default_permissions = ("view",)
        ordering: ClassVar = ["-asked_at"]
        verbose_name = "removal of a user's likes"
        verbose_name_plural = "removals of users' likes"
        indexes: ClassVar = [
            models.Index("asked_at", condition=models.Q(ended_at=None), name="likes_removal_unfinished"),
        ]

    def __str__(self) -> str:
        return f"removal {self.id}"


class Like(models.Model):
    """The permission to see who likes what. No table here: likes are in the shards, see `likes.reading`."""

    id = models.CharField(max_length=400, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
