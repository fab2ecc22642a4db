"""The copies of a shard: which of them have what.

For now the one question that completion asks (I3): up to which WAL position enough replicas have flushed. `quorum` is pure.
"""
