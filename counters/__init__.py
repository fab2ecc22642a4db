"""Counters and all operations on them.

Every room may import the pure core: `operations` (fold), `keys`, `batch` (the codec), `outcome`, `write_id`, `rows`.
The rooms: `intake` (writes into the journal: I1), `apply` (from the journal into the shards: I2, I3, I4, I6), `reading`
(reads: I5), `imports`, `reconciliation`, `operators` (data for operators), `api` and `admin`.
"""
