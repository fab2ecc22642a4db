"""What operators see: `journal_entries`, `applied_records` (rejected operations, forwarded batches), `gauges`; `health`
(every component, and how many copies there are), `processes` (heartbeats), `statistics` (of each component), `broker`;
`status` (all of it in one picture), `recording` (of the last minutes); `lanes` (what waits in each, and waking one),
`limits` (those in force), `audit` (what staff did).

May be imported by the admin and by code that exports metrics. It only reads, but for `audit`, which adds entries, and
`lanes.wake`, which sends a task. It makes I7 visible: every batch set aside and every rejected operation can be found by
its id.
"""
