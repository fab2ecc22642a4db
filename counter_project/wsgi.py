"""The WSGI entry point of an API process."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
application = get_wsgi_application()
