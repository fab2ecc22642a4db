"""The way in: `main` for `manage.py cluster …`, `loadbalancer …`, `backup …` and `restore …`. A missing package or a
failure becomes a sentence here."""

from __future__ import annotations

import sys
from importlib import import_module

from . import ClusterError

# Module and function of each. They are imported late: their imports are what may be missing.
COMMANDS = {
    "cluster": ("commands", "run"),
    "loadbalancer": ("commands", "run_loadbalancer"),
    "backup": ("backup_commands", "run_backup"),
    "restore": ("backup_commands", "run_restore"),
}


def main(command: str, argv: list[str]) -> int:
    """Run `COMMAND ARGV…`: the exit status; failures are one sentence on stderr and status 1."""
    module, name = COMMANDS[command]
    try:
        run = getattr(import_module(f"{__package__}.{module}"), name)
        status: int = run(argv)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == __package__:
            raise
        _say(
            command, f"the Python package {error.name} is not installed: `make run` installs all that the cluster needs"
        )
    except ClusterError as error:
        _say(command, str(error))
    except KeyboardInterrupt:
        _say(command, "interrupted")
    else:
        return status
    return 1


def _say(command: str, text: str) -> None:
    print(f"{command}: {text}", file=sys.stderr, flush=True)
