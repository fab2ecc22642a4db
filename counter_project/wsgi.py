"""The WSGI entry point of an API process."""

import gc
import os
import sys

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
application = get_wsgi_application()

# A request leaves no cycles, and what was imported stays: looking through all of it again and again was a twentieth of a bulk write's cost.
gc.freeze()
gc.set_threshold(10_000, 10, 10)

# A thread that waits for the interpreter lock asks for it so often. With dozens of them the asking costs more than it gives: what holds the
# lock waits for Redis after a fraction of a millisecond anyway.
sys.setswitchinterval(0.05)
