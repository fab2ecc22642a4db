"""The REST API of likes: the calls that `counters.api` has for counters, for likes."""
