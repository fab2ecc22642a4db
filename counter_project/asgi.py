"""The ASGI entry point of an API process."""

import gc
import os

import django
from prometheus_client import REGISTRY

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
django.setup()

from counters.api import bulk  # noqa: E402 - needs the settings
from counters.api.application import Application  # noqa: E402
from counters.operators.gauges import ArchiveCollector, CopiesCollector  # noqa: E402

REGISTRY.register(CopiesCollector())
REGISTRY.register(ArchiveCollector())
application = Application()
bulk.prepare()

# Imported objects stay, and a request leaves few cycles: scanning all objects again and again would cost a twentieth of
# a bulk write.
gc.freeze()
gc.set_threshold(10_000, 10, 10)
