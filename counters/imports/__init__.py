"""Imports: increments from a file (`lines`), submitted in repeatable chunks (`importing`).

May be imported by commands. No invariant lives here; each chunk is a write with an idempotency key, so I1 and I2 hold
for it.
"""
