"""The WSGI entry point of an API process."""

import gc
import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
application = get_wsgi_application()

# A request leaves no cycles, and what was imported stays: looking through all of it again and again was a twentieth of a bulk write's cost.
gc.freeze()
gc.set_threshold(50_000, 20, 20)
