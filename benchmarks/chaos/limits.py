"""The limits of the clusters that the bench starts.

Usually nothing is spilled, so that the order of each owner's operations is known. With small limits (`--small-limits`)
much is, and owners find out what was counted (`expected_counts`).
"""

from __future__ import annotations

from pathlib import Path

MARK = "small-limits"  # a file in the cluster's directory
USUAL = {"TALLY_STALE_SECONDS": "0"}  # a clock step makes anything old
SMALL = {
    "TALLY_KEY_RATE": "30",
    "TALLY_KEY_RATE_WINDOW_SECONDS": "10",
    "TALLY_EXCESS_INCREMENTS": "500",
    "TALLY_STALE_SECONDS": "1",
    "TALLY_BACKLOG_INCREMENTS": "300",
}


def environment(directory: Path, *, small: bool) -> dict[str, str]:
    """The settings of a cluster that is to be started in this directory."""
    if small:
        (directory / MARK).touch()
    return SMALL if small else USUAL
