"""A write's way in: fold, group commit, journal, dispatch.

    request ─ `Write` ─ `submit` ─ group commit ─┬─ `append` to the journal (I1: the answer comes after its fsync)
                                                 └─ `dispatch` (a Celery task for a lane that has none; it may be lost: I4)

May be imported: `submit` and the builders of `writes`, `outcomes` (to wait for a result), `dispatch`; of a lane
`Journal`, `Lease` and `SetAsideBatches` (I7: what cannot be applied is kept).
"""
