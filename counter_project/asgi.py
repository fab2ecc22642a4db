"""The ASGI entry point of an API process."""

import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
django.setup()

from counters.api import bulk  # noqa: E402 - needs the settings
from counters.api.application import Application  # noqa: E402

application = Application()
bulk.prepare()

# A request leaves few cycles, and what was imported stays: looking through all of it again and again costs a twentieth
# of a bulk write.
gc.freeze()
gc.set_threshold(10_000, 10, 10)
