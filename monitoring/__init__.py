"""What watches Tally from outside: Prometheus' configuration, its alerts, and the targets of a local cluster. Nothing
imports it."""
