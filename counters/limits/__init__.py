"""What each caller may use: a quota of requests and one of increments, each in a sliding window that all processes share.

`policies` says what is allowed, `window` (pure) what one process knows of a caller, `limiter` decides, `addresses` says
who a caller without an API key is. See docs/limits.md.
"""
