"""All tests. They run against real parts: one local cluster for the whole run, on free ports, in a directory of its own."""
