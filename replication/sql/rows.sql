-- The rows of some slots, by key. Scans the partitions concerned and sorts; runs only for slots that differ.
SELECT concat_ws(' ', {key}), {columns} FROM {table} WHERE slot = ANY(%(slots)s) ORDER BY 1, slot
