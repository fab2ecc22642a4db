"""Tests that need no cluster: pure logic, settings, and the rules that hold the house. `pytest tests/unit` takes
seconds."""
