"""What operators are shown: `journal_entries`, `applied_records` (rejected operations, forwarded batches), `gauges`.

May be imported from the admin and from whoever exports metrics. It only reads. I7 is made visible here: whatever was
refused or rejected can be found by its id.
"""
