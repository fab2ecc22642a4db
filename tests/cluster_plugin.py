"""Starts the one cluster of a test run before Django's settings are read (they come from the environment), and destroys it at the end.

`TALLY_TEST_CLUSTER=DIR` uses a cluster that is already running (`manage.py cluster up --dir DIR --detach`) and leaves it alone: for
running one test again and again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MANAGE = [sys.executable, str(ROOT / "manage.py")]
NEEDS_NO_CLUSTER = {"--help", "-h", "--version", "--markers", "--fixtures"}

_own: Path | None = None


def directory() -> Path:
    """The directory of the cluster of this run."""
    return Path(os.environ["TALLY_TEST_CLUSTER"])


def read_env(path: Path) -> dict[str, str]:
    """The settings that a cluster wrote."""
    lines = (path / "env").read_text().splitlines()
    return dict(line.partition("=")[::2] for line in lines if line and not line.startswith("#"))


def clean() -> dict[str, str]:
    """An environment without the settings of this run's cluster, for commands on another one."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TALLY_")}


def _start() -> None:
    global _own  # noqa: PLW0603
    if "TALLY_TEST_CLUSTER" not in os.environ:
        _own = Path(tempfile.mkdtemp(prefix="tally-test-"))
        os.environ["TALLY_TEST_CLUSTER"] = str(_own)
        up = subprocess.run([*MANAGE, "cluster", "up", "--dir", str(_own), "--port", "0", "--detach"], cwd=ROOT, check=False)
        if up.returncode:
            sys.exit(f"the test cluster did not start; its logs are in {_own}/logs")
    os.environ.update(read_env(directory()))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember whether the logs are worth keeping."""
    session.config.stash[_FAILED] = exitstatus not in (0, 5)


_FAILED = pytest.StashKey[bool]()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what `_start` started; keep the directory of a run that failed."""
    if _own is None:
        return
    failed = config.stash.get(_FAILED, True)
    command = ["down"] if failed else ["destroy", "--yes"]
    subprocess.run([*MANAGE, "cluster", *command, "--dir", str(_own)], cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
    if failed:
        print(f"logs of the test cluster: {_own}/logs")  # noqa: T201


if not NEEDS_NO_CLUSTER & set(sys.argv):
    _start()
