"""Where a key lives: slots, the ring that plans them, the topology in force, and how a process reaches a shard.

May be imported from here: `slots` (key → slot), `lanes`, `ring` (who should own a slot), `topology` (who does), `nodes`
(the servers that the settings name), `databases` (aliases, router, connections), `breakers` (a shard that is down costs
no one a time-out twice). I6 rests on `topology`: the map that routes a write, and the copy of it in each shard that the
worker checks inside its transaction.
"""
