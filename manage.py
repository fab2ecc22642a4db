#!/usr/bin/env python
"""Entry point of every command. `cluster`, `loadbalancer`, `backup`, `restore` and `quorum_report` run before there are settings to load,
so they bypass Django."""

import os
import sys
from pathlib import Path


def load_env_file() -> None:
    """Take the settings of the local cluster where the environment gives none (TALLY_ENV_FILE, or .cluster/env)."""
    path = Path(os.environ.get("TALLY_ENV_FILE", Path(__file__).resolve().parent / ".cluster" / "env"))
    if path.is_file():
        for line in path.read_text().splitlines():
            name, sep, value = line.partition("=")
            if sep and not name.startswith("#"):
                os.environ.setdefault(name, value)


def main() -> None:
    from runtime import garbage

    garbage.postpone()
    if sys.argv[1:2] in (["cluster"], ["loadbalancer"], ["backup"], ["restore"]):
        from cluster.cli import main as cluster_main

        garbage.begin()
        sys.exit(cluster_main(sys.argv[1], sys.argv[2:]))
    if sys.argv[1:2] == ["quorum_report"]:
        from benchmarks.quorum.__main__ import main as quorum_main

        garbage.begin()
        sys.exit(quorum_main(sys.argv[2:]))
    load_env_file()
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counter_project.settings")
    import django
    from django.core.management import execute_from_command_line

    from counter_project.config import ConfigError
    from runtime.resources import Resources

    try:
        with Resources():
            django.setup()
            garbage.begin()
            execute_from_command_line(sys.argv)
    except ConfigError as error:
        sys.exit(f"manage.py: {error}")


if __name__ == "__main__":
    main()
