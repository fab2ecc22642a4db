"""`manage.py disks SERVER=PATH …`: watch the disks of the servers on this machine. Runs until it is stopped."""

from __future__ import annotations

import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import structlog
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from prometheus_client import Gauge
from redis.exceptions import RedisError

from runtime import disks, metrics
from runtime.disks import Room

FREE = Gauge("tally_disk_free_bytes", "Bytes that are free on a server's disk, the fullest of its disks", ["server"])
TOTAL = Gauge("tally_disk_total_bytes", "Bytes of that disk", ["server"])
RESERVE = Gauge("tally_disk_reserve_bytes", "Bytes that are to stay free on it: TALLY_DISK_RESERVE_BYTES", ["server"])
SHORT = Gauge("tally_disk_short", "1 while fewer are free: writes that need the disk are refused", ["server"])
log = structlog.get_logger(__name__)


class Command(BaseCommand):
    help = (
        "Watch the disks of the PostgreSQL and journal servers on this machine, until stopped: every second it tells "
        "how much room there is, in the journal's Redis and in /metrics (TALLY_METRICS_PORT)."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "places",
            nargs="+",
            metavar="SERVER=PATH",
            help="a server and a path on its disk. A PostgreSQL server is HOST:PORT as in TALLY_SHARDS, any other name is "
            "one of the journal's servers. A server with several disks is named once for each.",
        )

    def handle(self, *_args: Any, places: list[str], **_options: Any) -> None:
        paths: dict[str, list[Path]] = defaultdict(list)
        for place in places:
            server, _, path = place.partition("=")
            if not server or not path:
                raise CommandError(f"{place!r} is not SERVER=PATH")
            paths[server].append(Path(path))
        rooms: dict[str, Room] = {}
        is_served = False
        while True:
            rooms = look(paths, rooms)
            if not is_served:
                metrics.serve()
                is_served = True
            time.sleep(disks.TELL_SECONDS)


def look(paths: dict[str, list[Path]], before: dict[str, Room]) -> dict[str, Room]:
    """Measure each server's disks and tell. Returns the rooms, for the next look."""
    reserve, found = settings.TALLY.disk_reserve_bytes, {}
    for server, its in paths.items():
        was_short = server in before and before[server].short
        try:
            found[server] = room = disks.measure(its, reserve, was_short=was_short)
        except OSError as error:
            log.warning("disk_unseen", server=server, error=str(error))
            continue
        for gauge, value in zip((FREE, TOTAL, SHORT, RESERVE), (*room, reserve), strict=True):
            gauge.labels(server).set(value)
        if room.short != was_short:
            tell = log.error if room.short else log.warning
            tell("disk_short" if room.short else "disk_has_room", server=server, free=room.free, reserve=reserve)
    try:
        disks.tell(found)
    except RedisError as error:
        log.debug("disks_untold", error=str(error))
    return found
