"""The write path up to the journal: fold, group commit, append, dispatch.

    request ─ `Write` ─ `submit` ─ group commit ─┬─ `append` to the journal (I1: the answer comes after its fsync)
                                                 └─ `dispatch` (a Celery task for a lane that has none; it may be lost: I4)

May be imported: `submit` and the builders in `writes`, `outcomes` (to wait for a result), `dispatch`; for a lane
`Journal`, `Lease`, `Confirmed` (what all copies of the journal have) and `SetAsideBatches` (I7: batches that cannot be
applied are kept).
"""
