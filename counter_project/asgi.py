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
from counters.operators.gauges import ArchiveCollector, BalancerCollector, BreakerCollector, CopiesCollector  # noqa: E402
from likes.api import bulk as likes_bulk  # noqa: E402
from likes.api.calls import LikeCalls  # noqa: E402

REGISTRY.register(CopiesCollector())
REGISTRY.register(ArchiveCollector())
REGISTRY.register(BalancerCollector())
REGISTRY.register(BreakerCollector())
application = Application([LikeCalls])
bulk.prepare()
likes_bulk.prepare()
garbage.begin()
