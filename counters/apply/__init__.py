"""The write path from a lane's journal into the shard: exactly once, in the journal's order.

    Celery task (`tasks`) ─ `shift` ─ window after window: `loading` ─ one `transaction`: lock, ledger, `plan`, upsert ─ COMMIT
                                └─ cache refreshed, waiters woken ─ `completion` ─ journal entry deleted

May be imported: `worker` (what a worker process owns), `dead_letters` and `partitions` (for operators), `lane_count`.
I2 lives in `transaction` (ledger and counters commit together), as does I6 (the transaction reads slot ownership). I3
lives in `completion`, I4 in `worker` and `relay` (a message only starts a shift; the journal has the batches and their
order).
"""
