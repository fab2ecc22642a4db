"""What operators did to the servers of the shards, in the control database; and `Replica`, which has no table."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Intervention(models.Model):
    """One thing that somebody asked of a shard's servers, why, and what came of it. `outcome` is empty while it is not
    known."""

    at = models.DateTimeField(auto_now_add=True)
    shard = models.PositiveSmallIntegerField()
    action = models.CharField(max_length=40)
    node = models.CharField(max_length=200, blank=True)
    reason = models.TextField()
    by = models.CharField(max_length=200)
    outcome = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["-at"]
        default_permissions = ("view",)
        indexes: ClassVar = [models.Index(fields=["-at"], name="intervention_newest")]

    def __str__(self) -> str:
        return f"{self.action} on shard {self.shard}, {self.at:%Y-%m-%d %H:%M:%S}"


class Replica(models.Model):
    """A node of a shard as the admin names it: `SHARD/NAME`. No table: see `replication.status`."""

    id = models.CharField(max_length=220, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name = "server"  # primaries are shown as well

    def __str__(self) -> str:
        return self.id.partition("/")[2]


class Shard(models.Model):
    """A shard as the admin names it, by its number. No table: see `replication.status`."""

    id = models.CharField(max_length=10, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return f"shard {self.id}"
