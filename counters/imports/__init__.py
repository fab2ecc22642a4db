"""Imports: many increments from a file (`lines`), submitted in chunks that may be repeated (`importing`).

May be imported from commands. No invariant lives here; each chunk is a write with an idempotency key, so I1 and I2 hold
for it.
"""
