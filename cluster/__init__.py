"""The local cluster: every part of Tally as supervised processes on 127.0.0.1, from one directory, by one command.

What this room is for: `manage.py cluster up|status|down|destroy|scale|upgrade`, `manage.py loadbalancer`, its archive, and
`manage.py backup|restore`. It is not a deployment tool (that is docker-compose.production.yml), it never starts, stops or
promotes a PostgreSQL that serves (that is Patroni's work; only an orphan whose Patroni is gone is stopped here, and a
restore recovers data that nobody serves yet), and it knows Tally only by its commands and its `TALLY_*` settings.

It imports no Django, of the other packages of the project only pure modules (`replication.apply_delay`,
`runtime.balancing`, `runtime.polling`, `runtime.scrapers`, `runtime.showing`, `sharding.connection_budget`, `sharding.lanes`), and nothing
imports it. Only `cluster.cli.main` is for others. No invariant lives here; the room must not break them: what was
acknowledged is in directories that `up` reuses.
"""


class ClusterError(Exception):
    """Something that the user can put right; the text is a sentence that says what to do next."""
