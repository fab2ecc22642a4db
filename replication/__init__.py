"""The copies of a shard: which of them have what.

`flush` is what completion asks (I3): up to which WAL position enough replicas have flushed. `digests` compares each replica with its
primary, in `snapshots` of the same moment; `rounds` keeps what was found. `quorum` and `digest` are pure.
"""
