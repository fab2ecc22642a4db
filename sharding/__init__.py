"""Where a key lives: slots, the ring that plans them, the topology in force, and how a process reaches a shard.

May be imported: `slots` (key → slot), `lanes`, `ring` (which shard should own a slot), `topology` (which shard does),
`nodes` (the servers that the settings name), `roles` (what each process may do in a database), `databases` (aliases,
router, connections), `breakers` (a shard that is down costs few time-outs). I6 rests on `topology`: the map that routes a
write, and each shard's copy of it, which the worker checks inside its transaction.
"""
