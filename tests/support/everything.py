"""`make test`: all tests, in two runs side by side, because they wait most of the time.

Each run has a cluster of its own. Tests of clusters with another layout start those themselves; they go with the
shorter run. The run of tests/faults prints its report when the other one has ended. With arguments this only runs
pytest with them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from tests.support.commands import ROOT

PYTEST = [sys.executable, "-m", "pytest"]
OTHER_CLUSTERS = "tests/faults/other_clusters"
FIRST = [*PYTEST, "tests/unit", "tests/tools", "tests/cluster", OTHER_CLUSTERS]
SECOND = [*PYTEST, "tests/faults", f"--ignore={OTHER_CLUSTERS}"]


def main(arguments: list[str]) -> int:
    """The exit status: that of the first run that failed."""
    if arguments:
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    with tempfile.TemporaryFile("w+") as said:
        second = subprocess.Popen(SECOND, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        first = subprocess.run(FIRST, cwd=ROOT, check=False).returncode
        second.wait()
        said.seek(0)
        sys.stdout.write(said.read())
    return first or second.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
