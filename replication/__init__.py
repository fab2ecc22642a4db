"""The copies of a shard: what each has, how many must confirm a write, how they are steered; by Patroni's and
PostgreSQL's own means.

`quorum`, `apply_delay` and `digest` are pure. `flush` is what completion asks (I3). `lag` keeps replicas that lag out
of reads. `patroni` is the way to Patroni's REST API, `steering` what can be asked of it (quorum, switchover, failover,
rejoin, reinitialise, delays), `status` what is so now. `digests` compares each replica with its primary, lane by lane
in `snapshots` of the same moment; `comparisons` keeps what was found. Nothing here promotes, demotes or copies a server
by itself.
"""
