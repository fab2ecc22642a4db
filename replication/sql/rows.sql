-- The rows of some slots in the order of their keys. A scan of the partitions concerned and a sort; only run for slots that differ.
SELECT key, value, version FROM counter WHERE slot = ANY(%(slots)s) ORDER BY key, slot
