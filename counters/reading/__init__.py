"""How a value is asked for: cache → replica → primary.

May be imported: `reads` (values, and queries on a shard's servers), `read_your_writes` (values that show a certain
write), `write_status` (what became of a write). The shifts write to `cache`, and reconciliation checks it. I5 lives in
`cache`: a cached value never goes back in version.
"""
