"""The copies of a shard: what each has, how many must confirm a write, and how operators steer them through Patroni and
PostgreSQL.

`quorum`, `apply_delay`, `applied`, `digest` and `outage` are pure. `flush` tells completion what replicas have flushed (I3).
`lag` keeps lagging replicas out of reads. `patroni` calls Patroni's REST API, `steering` offers its operations (quorum,
switchover, failover, rejoin, reinitialise, delays), `status` returns the current state, and `copies` which servers have
all of the data. `digests` compares each replica with its primary, lane by lane in `snapshots` of the same moment;
`comparisons` stores the results. `healing` has replicas copied again that do not follow, or differ. Nothing here
promotes or demotes a server on its own.
"""
