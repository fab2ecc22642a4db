"""The admin: counters across the shards, writes by id, API keys, users. What it changes in a counter goes through `counters.intake`."""

from django.contrib import admin
from rest_framework_api_key.models import APIKey

from counters.admin.api_keys import ApiKeyAdmin
from counters.admin.counters import CounterAdmin
from counters.models import ApiKey, Counter

admin.site.site_title = admin.site.site_header = "Tally"
admin.site.index_title = "Administration"
admin.site.unregister(APIKey)  # the library's own model, which has no scopes
admin.site.register(ApiKey, ApiKeyAdmin)
admin.site.register(Counter, CounterAdmin)
