"""What a counter is, and all that is done with it.

The pure core may be imported from every room: `operations` (fold), `keys`, `batch` (the codec), `outcome`, `write_id`,
`rows`. The rooms: `intake` (a write's way in: I1), `apply` (its way down: I2, I3, I4, I6), `reading` (how a value is
asked for: I5), `imports`, `reconciliation`, `operators` (what operators are shown), `api` and `admin`.
"""
