-- Put entries of recent likes.
--
-- KEYS  keys of entries
-- ARGV  seconds that they live, then an entry for each key
for i = 1, #KEYS do redis.call('SET', KEYS[i], ARGV[i + 1], 'EX', ARGV[1]) end
