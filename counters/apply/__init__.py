"""A write's way down: from the journal into the shard, exactly once, in the journal's order.

    Celery task (`tasks`) ─ wakes ─ `applier` ─ `loading` ─ one `transaction`: lock, ledger, `plan`, upsert ─ COMMIT
                                                └─ cache refreshed, waiters woken ─ `completion` ─ journal entry deleted

I2 lives in `transaction` (ledger and counters commit together), I6 too (ownership is read in the transaction), I3 in `completion`, I4 in
`tasks` and `relay` (a message only wakes; which batches there are, and in which order, the journal says).
"""
