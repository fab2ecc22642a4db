"""The ASGI entry point of an API process."""

import os

from runtime import garbage

garbage.postpone()
import django  # noqa: E402
from prometheus_client import REGISTRY  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
django.setup()

from counters.api import bulk  # noqa: E402 - needs the settings
from counters.api.application import Application  # noqa: E402
from counters.api.traced import Traced  # noqa: E402
from counters.operators import gauges  # noqa: E402
from likes.api import bulk as likes_bulk  # noqa: E402
from likes.api.calls import LikeCalls  # noqa: E402
from runtime import tracing  # noqa: E402

for collector in (
    gauges.CopiesCollector,
    gauges.LagCollector,
    gauges.LaneCollector,
    gauges.ArchiveCollector,
    gauges.BalancerCollector,
    gauges.BreakerCollector,
):
    REGISTRY.register(collector())
Kind = Traced if tracing.is_on() else Application
application = Kind([LikeCalls])
bulk.prepare()
likes_bulk.prepare()
garbage.begin()
