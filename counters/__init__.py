"""What a counter is: its value and version, the REST API, reads (cache → replica → primary) and the admin.

`operations`, `keys` and `write_id` are pure and may be imported from anywhere above; `reads` is how a value is asked for, `intake` how a
write comes in, `apply` how it goes down. I5 lives in `cache`, I1 in `intake`, I2 and I6 in `apply`, I3 in `apply.completion`.
"""
