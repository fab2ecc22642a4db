"""Reconciliation: replicas compared with their primary, the cache with the primaries.

May be imported: `rounds` (run one, ask for one, its report). `cache_check` repairs what breaks I5; how replicas are
compared is `replication.digests`.
"""
