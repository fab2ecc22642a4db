"""What every room stands on, and what knows nothing of counters: the event loop, Redis clients, breakers, group commit,
polling.

May be imported from anywhere. No invariant lives here; I1 rests on `group_commit`, which answers an item after its
flush.
"""
