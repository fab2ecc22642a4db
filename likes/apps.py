"""The Django app of likes."""

from __future__ import annotations

from django.apps import AppConfig


class LikesConfig(AppConfig):
    """Tells the rooms below what likes do when they are applied, and how to look whether they are right."""

    name = "likes"

    def ready(self) -> None:
        from counters.apply import effects, partitions
        from counters.reading import pending
        from counters.reconciliation import checks
        from likes import agreement, upkeep
        from likes.applying import Likes
        from likes.pending import effects as pending_effects
        from likes.writes import KIND
        from replication import tables

        effects.register(KIND, Likes())
        partitions.register(upkeep.EVENTS, upkeep.purge)
        pending.register(KIND, pending_effects)
        for table in agreement.TABLES:
            tables.register(table)
        checks.register(agreement.counts)
        checks.register(agreement.sides)
