"""The admin's site: as Django's, but a password alone does not open it to those who need a second factor."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.http import HttpRequest

from counters.second_factor import devices


class Site(AdminSite):
    """Each page of the admin asks it, in its view, so that a database that is down is answered with 503."""

    def has_permission(self, request: HttpRequest) -> bool:
        """Whether the user is staff, and has shown a second factor where it is needed."""
        return super().has_permission(request) and not devices.is_missing(request)
