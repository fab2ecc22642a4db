"""Models: API keys, in the control database. Counters have no table in this database: see the shards' migration."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from rest_framework_api_key.models import AbstractAPIKey, BaseAPIKeyManager

from counters.limits.policies import MOST


class Scope(models.TextChoices):
    """What a key allows. Anyone may read; `read` is for keys that allow nothing else."""

    READ = "read", "read counters"
    WRITE = "write", "write counters"
    STAFF = "staff", "operate shards"


class ApiKeyManager(BaseAPIKeyManager):
    """Creates keys whose id is their prefix. The library's id contains the hash, and ids appear in URLs and log
    entries."""

    def assign_key(self, obj: AbstractAPIKey) -> str:
        key = super().assign_key(obj)
        obj.id = obj.prefix
        return key


MOST_NAME = 50  # characters of an API key's name, as in the library's column
NAME_RULE = f"1 to {MOST_NAME} characters, not blank, no control characters"
# Raises `ValidationError` for an invalid API key name.
check_name = RegexValidator(
    rf"\A(?=.*\S)[^\x00-\x1f\x7f-\x9f\u2028\u2029]{{1,{MOST_NAME}}}\Z",
    f"A name has {NAME_RULE}.",
)


QUOTA = [MinValueValidator(1), MaxValueValidator(MOST)]


class ApiKey(AbstractAPIKey):
    """A client's key; only its hash is stored. Revoking is final."""

    objects: ClassVar[ApiKeyManager] = ApiKeyManager()  # type: ignore[assignment]

    scopes = ArrayField(
        models.CharField(max_length=10, choices=Scope.choices), default=list, help_text="What the key allows."
    )

    requests_rate = models.BigIntegerField(
        "requests a minute", null=True, blank=True, validators=QUOTA, help_text="Empty: as for every other key."
    )
    increments_rate = models.BigIntegerField(
        "increments a minute", null=True, blank=True, validators=QUOTA, help_text="Empty: as for every other key."
    )
    last_used = models.DateTimeField(null=True, editable=False, help_text="To the hour; empty: never.")

    class Meta(AbstractAPIKey.Meta):
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        abstract: ClassVar[bool] = False


class Limits(models.Model):
    """What callers may use that have no quota of their own: one row, where a field that is empty leaves the setting in
    force."""

    id = models.SmallAutoField(primary_key=True)
    anonymous_rate = models.BigIntegerField(
        "requests a minute of an address without an API key",
        null=True,
        blank=True,
        validators=QUOTA,
        help_text="Empty: TALLY_ANONYMOUS_RATE. IPv6 addresses count by their /64 network.",
    )
    api_key_rate = models.BigIntegerField(
        "requests a minute of an API key",
        null=True,
        blank=True,
        validators=QUOTA,
        help_text="Empty: TALLY_API_KEY_RATE.",
    )
    api_key_increments_rate = models.BigIntegerField(
        "increments a minute of an API key",
        null=True,
        blank=True,
        validators=QUOTA,
        help_text="Empty: TALLY_API_KEY_INCREMENTS_RATE.",
    )

    class Meta:
        verbose_name_plural = "limits of callers"

    def __str__(self) -> str:
        return "limits of callers"


class Counter(models.Model):
    """A counter, for the admin's permissions, links and log entries. It has no table and no working manager: counters
    are in the shards, `counters.reading` reads them and `counters.intake` changes them."""

    key = models.CharField(max_length=200, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return self.key


class JournalEntry(models.Model):
    """A batch in a lane's journal, or set aside, for the admin; its id is `LANE-ID`. See
    `counters.operators.journal_entries`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name_plural = "journal entries"

    def __str__(self) -> str:
        lane, _, batch = self.id.partition("-")
        return f"batch {batch} of lane {lane}"


class LaneQueue(models.Model):
    """A lane, for the admin; its id is the lane as it is printed. No table: see `counters.operators.lanes`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name = "lane"

    def __str__(self) -> str:
        return f"lane {self.id}"


class SpillQueue(models.Model):
    """A spill queue of a lane, for the admin; its id is the queue as it is printed. No table: see
    `counters.operators.lanes`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return f"spill queue {self.id}"


class DeadLetter(models.Model):
    """A message that no task could process, for the admin. No table: see `counters.apply.dead_letters`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")

    def __str__(self) -> str:
        return f"dead letter {self.id}"


class RejectedOperation(models.Model):
    """The permission to see rejected operations. No table here: see `counters.operators.applied_records`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)


class ForwardedBatch(models.Model):
    """The permission to see forwarded batches. No table here: see `counters.operators.applied_records`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)
        verbose_name_plural = "forwarded batches"


class Reconciliation(models.Model):
    """A shard's last reconciliation, for the admin; its id is the shard's number. No table: see
    `counters.reconciliation.rounds`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        verbose_name_plural = "reconciliation"

    def __str__(self) -> str:
        return f"reconciliation of shard {self.id}"


class Component(models.Model):
    """The permission to see the statistics of components. No table: see `counters.operators.statistics`."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ("view",)


class AuditEntry(models.Model):
    """What somebody of the staff did: see `counters.operators.audit`. PostgreSQL sets `id`, `at`, `role` and `hash` and
    refuses changes. `outcome` is empty in the entry that was written before the action."""

    id = models.BigAutoField(primary_key=True)
    at = models.DateTimeField(auto_now_add=True)
    by = models.TextField()
    action = models.TextField()
    target = models.TextField()
    detail = models.TextField(blank=True)
    outcome = models.TextField(blank=True)
    address = models.TextField(blank=True)
    request_id = models.TextField(blank=True)
    role = models.TextField(blank=True)
    hash = models.TextField(blank=True)

    class Meta:
        default_permissions = ("view",)
        verbose_name = "audit log entry"
        verbose_name_plural = "audit log"

    def __str__(self) -> str:
        return f"entry {self.id}"
