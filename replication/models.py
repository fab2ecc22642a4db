"""Operators' interventions, in the control database. `Replica`, `Shard`, `Breaker` and `LoadBalancer` have no tables."""

from __future__ import annotations

from typing import ClassVar

from django.db import models


class Intervention(models.Model):
    """One action that somebody ordered on a shard's servers, a breaker or the load balancer, its reason and its outcome.
    `shard` is None if it concerns no shard. `outcome` is empty while unknown."""

    at = models.DateTimeField(auto_now_add=True)
    shard = models.PositiveSmallIntegerField(null=True)
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
        where = "" if self.shard is None else f" on shard {self.shard}"
        return f"{self.action}{where}, {self.at:%Y-%m-%d %H:%M:%S}"


class Replica(models.Model):
    """A node of a shard as the admin names it: `SHARD/NAME`. No table: see `replication.status`."""

    id = models.CharField(max_length=220, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name = "server"  # primaries are listed, too

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


class Breaker(models.Model):
    """A circuit breaker as the admin names it. No table: see `counters.operators.breakers`."""

    id = models.CharField(max_length=40, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.id


class LoadBalancer(models.Model):
    """The load balancer before the API processes, for the admin. No table: see `counters.operators.balancing`."""

    id = models.CharField(max_length=40, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name_plural = "load balancer"

    def __str__(self) -> str:
        return "the load balancer"
