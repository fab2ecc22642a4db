"""The admin: counters across the shards, writes by id, API keys and their quotas, limits of callers, users; for
operators the journal, lanes, spill queues, dead letters, rejected operations and forwarded batches, reconciliation, statistics of the
components, the shards and their servers, breakers and the load balancer, and the audit log. It changes counters through
`counters.intake` and servers through `replication.steering`."""

from django.contrib import admin
from django_otp.plugins.otp_static.admin import StaticDevice  # which registers it
from django_otp.plugins.otp_totp.admin import TOTPDevice
from rest_framework_api_key.models import APIKey

from counters import models
from counters.admin.api_keys import ApiKeyAdmin
from counters.admin.applied_records import ForwardedBatchAdmin, RejectedOperationAdmin
from counters.admin.audit import AuditEntryAdmin
from counters.admin.balancing import LoadBalancerAdmin
from counters.admin.breakers import BreakerAdmin
from counters.admin.components import ComponentAdmin
from counters.admin.counters import CounterAdmin
from counters.admin.dead_letters import DeadLetterAdmin
from counters.admin.journal import JournalAdmin
from counters.admin.lanes import LanesAdmin, SpillQueueAdmin
from counters.admin.limits import LimitsAdmin
from counters.admin.reconciliation import ReconciliationAdmin
from counters.admin.replicas import InterventionAdmin, ReplicaAdmin, ShardAdmin
from replication.models import Breaker, Intervention, LoadBalancer, Replica, Shard

admin.site.site_title = admin.site.site_header = "Tally"
admin.site.index_title = "Administration"
admin.site.unregister(APIKey)  # the library's own model, which has no scopes
admin.site.unregister([TOTPDevice, StaticDevice])  # they show keys and backup codes of others
admin.site.register(models.ApiKey, ApiKeyAdmin)
admin.site.register(models.AuditEntry, AuditEntryAdmin)
admin.site.register(models.Component, ComponentAdmin)
admin.site.register(models.Counter, CounterAdmin)
admin.site.register(models.JournalEntry, JournalAdmin)
admin.site.register(models.LaneQueue, LanesAdmin)
admin.site.register(models.SpillQueue, SpillQueueAdmin)
admin.site.register(models.Limits, LimitsAdmin)
admin.site.register(models.DeadLetter, DeadLetterAdmin)
admin.site.register(models.RejectedOperation, RejectedOperationAdmin)
admin.site.register(models.ForwardedBatch, ForwardedBatchAdmin)
admin.site.register(models.Reconciliation, ReconciliationAdmin)
admin.site.register(Shard, ShardAdmin)
admin.site.register(Replica, ReplicaAdmin)
admin.site.register(Breaker, BreakerAdmin)
admin.site.register(LoadBalancer, LoadBalancerAdmin)
admin.site.register(Intervention, InterventionAdmin)
