"""The copies of a shard: what each has, how many must confirm a write, and how they are steered, by Patroni's and PostgreSQL's own means.

`quorum` and `apply_delay` are pure. `flush` is what completion asks (I3); `lag` keeps replicas that lag out of reads; `patroni` is the one
way to Patroni's REST API, `steering` what can be asked of it (quorum, switchover, failover, rejoin, reinitialise, delays), `status` what
is so now. Nothing here promotes, demotes or copies a server by itself.
"""
