"""Reconciliation: compares replicas with their primary, and the cache with the primaries.

May be imported: `rounds` (run one, request one, its report). `cache_check` repairs violations of I5;
`replication.digests` compares replicas.
"""
