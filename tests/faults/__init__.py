"""Tests that kill, freeze or stop what the cluster consists of, and tests on clusters of their own."""
