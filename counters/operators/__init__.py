"""What operators see: `journal_entries`, `applied_records` (rejected operations, forwarded batches), `gauges`; `health`
(every component, and how many copies there are), `processes` (heartbeats), `statistics` (of each component), `broker`;
`status` (all of it in one picture), `recording` (of the last minutes); `audit` (what staff did: the one that writes).

May be imported by the admin and by code that exports metrics. It only reads. It makes I7 visible: every batch set aside
and every rejected operation can be found by its id.
"""
