"""The base of all packages, without knowledge of counters: the event loop, Redis clients, breakers, group commit,
polling, looks (checks that may hang), heartbeats, pulses.

May be imported from anywhere. No invariant lives here, but I1 rests on `group_commit`: an item is answered only after
its flush.
"""
