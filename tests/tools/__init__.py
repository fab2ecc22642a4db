"""Tests of what stands beside the product: benchmarks, the local cluster's own code, monitoring, documentation."""
