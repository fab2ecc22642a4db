"""The ASGI entry point of an API process."""

import gc
import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
django.setup()

from counter_project.handler import Handler  # noqa: E402 - needs the settings
from counters.api import bulk  # noqa: E402

application = Handler()
bulk.prepare()

# A request leaves no cycles, and what was imported stays: looking through all of it again and again was a twentieth of a bulk write's cost.
gc.freeze()
gc.set_threshold(10_000, 10, 10)
