"""Tests against the cluster of the run, which leave it as they found it."""
