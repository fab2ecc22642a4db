"""The load generator: one small process that sends prebuilt requests over plain sockets, the same for Tally and for
every peer.

    wire        a load, its result, and the bytes of a request       generator   the process
    keys        which keys, how often: Zipf, and bodies made of them

It shares the machine with what it tests, so it does nothing that could have been done beforehand.
"""
