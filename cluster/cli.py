"""The way in: `main(argv)` for `manage.py cluster …`. A missing package or a failure becomes a sentence here."""

from __future__ import annotations

import sys

from . import ClusterError


def main(argv: list[str]) -> int:
    """Run `cluster ARGV…`: the exit status; failures are one sentence on stderr and status 1."""
    try:
        from .commands import run  # noqa: PLC0415  its imports are what may be missing

        return run(argv)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == __package__:
            raise
        _say(f"the Python package {error.name} is not installed: `make run` installs all that the cluster needs")
    except ClusterError as error:
        _say(str(error))
    except KeyboardInterrupt:
        _say("interrupted")
    return 1


def _say(text: str) -> None:
    print(f"cluster: {text}", file=sys.stderr, flush=True)
