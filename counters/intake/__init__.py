"""A write's way in: fold, group commit, journal, dispatch.

    request ─ `Write` ─ `submit` ─ group commit ─┬─ `journal` (I1: the answer comes after its fsync)
                                                 └─ `dispatch` (a Celery task for a lane that has none; it may be lost: I4)

May be imported: `submit` and the builders of `writes`, `journal` (its readers), `batch` (the codec), `outcomes` (to wait for a result).
"""
