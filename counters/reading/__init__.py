"""Reads: cache → replica → primary.

May be imported: `reads` (values, and queries on a shard's servers), `read_your_writes` (values that include a given
write), `write_status` (the status of a write). Shifts write to `cache`, and reconciliation checks it. I5 lives in
`cache`: a cached value's version never goes back.
"""
