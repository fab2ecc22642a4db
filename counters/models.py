"""Models: API keys, in the control database. Counters are not a Django model of this database: see the migration of the shards."""

from __future__ import annotations

from typing import ClassVar

from django.contrib.postgres.fields import ArrayField
from django.db import models
from rest_framework_api_key.models import AbstractAPIKey


class Scope(models.TextChoices):
    """What a key allows. Reading is open to everyone; `read` is for keys that shall do nothing else."""

    READ = "read", "read counters"
    WRITE = "write", "write counters"
    STAFF = "staff", "operate shards"


class ApiKey(AbstractAPIKey):
    """A key of a client; only its hash is stored. Revoking is final."""

    scopes = ArrayField(models.CharField(max_length=10, choices=Scope.choices), default=list, help_text="What the key allows.")

    class Meta(AbstractAPIKey.Meta):
        verbose_name = "API key"
        verbose_name_plural = "API keys"
        abstract: ClassVar[bool] = False
