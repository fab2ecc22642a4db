"""Wiring only: settings, urls, the Celery app, server entry points."""

from counter_project.celery import app as celery_app

__all__ = ["celery_app"]
