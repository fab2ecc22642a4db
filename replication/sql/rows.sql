-- The rows of some slots, by key. Scans the partitions concerned and sorts; runs only for slots that differ.
SELECT key, value, version FROM counter WHERE slot = ANY(%(slots)s) ORDER BY key, slot
