"""`make test`: all tests, in two runs side by side, because they wait most of the time.

One run uses the run's cluster. The other has the tests that make their own clusters, and prints its report at the end.
With arguments it only runs pytest with them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile

from tests.support.commands import ROOT

PYTEST = [sys.executable, "-m", "pytest"]
SHARED = [*PYTEST, "-m", "not own_cluster"]
OWN = [*PYTEST, "-m", "own_cluster", "tests/faults"]


def main(arguments: list[str]) -> int:
    """The exit status: that of the first run that failed."""
    if arguments:
        return subprocess.run([*PYTEST, *arguments], cwd=ROOT, check=False).returncode
    with tempfile.TemporaryFile("w+") as found:
        own = subprocess.Popen(OWN, cwd=ROOT, stdout=found, stderr=subprocess.STDOUT)
        shared = subprocess.run(SHARED, cwd=ROOT, check=False).returncode
        own.wait()
        found.seek(0)
        sys.stdout.write(found.read())
    return shared or own.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
