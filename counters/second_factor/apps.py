"""The admin as a Django app, with a site of its own."""

from django.contrib.admin.apps import SimpleAdminConfig


class AdminConfig(SimpleAdminConfig):
    """Its pages are loaded by the URLs, in processes that serve them."""

    default_site = "counters.second_factor.site.Site"
