"""`manage.py backup` and `manage.py restore`: their options. Each returns the exit status."""

from __future__ import annotations

import argparse
import os
from datetime import UTC, datetime
from pathlib import Path

from rich.table import Table

from . import backup, layout, restore
from .archive import Archive
from .console import Console
from .layout import Directory
from .restore import Wanted


def run_backup(argv: list[str]) -> int:
    """Run `backup ARGV…`. Raises `ClusterError` with the sentence to show."""
    parser = argparse.ArgumentParser(
        prog="manage.py backup", description="Back the running local cluster up: every shard, the journal, the secrets."
    )
    parser.add_argument(
        "archive", metavar="DIR", type=_path, help="where backups are kept; the cluster's archive if it has one"
    )
    parser.add_argument(
        "--dir", type=_path, default=layout.PROJECT / ".cluster", help="the cluster's directory (default: .cluster)"
    )
    parser.add_argument(
        "--keep",
        type=_positive,
        metavar="N",
        help="then delete all but the newest N, and the logs that only these needed",
    )
    parser.add_argument("--without-secrets", action="store_true", help="leave secrets.json and the API key out")
    parser.add_argument("--list", action="store_true", help="show the backups that there are, and take none")
    options = parser.parse_args(argv)
    os.umask(0o077)
    archive = Archive(options.archive)
    if options.list:
        _show(archive)
        return 0
    found = backup.take(Directory(options.dir), archive, keep=options.keep, secrets=not options.without_secrets)
    Console().say(f"backup: {found.path}, whole from {_time(found.manifest.finished)} on")
    return 0


def run_restore(argv: list[str]) -> int:
    """Run `restore ARGV…`. Raises `ClusterError` with the sentence to show."""
    parser = argparse.ArgumentParser(prog="manage.py restore", description="Make a new local cluster from a backup.")
    parser.add_argument("archive", metavar="DIR", type=_path, help="where the backups are")
    parser.add_argument(
        "--to",
        type=_path,
        required=True,
        metavar="DIR",
        help="the directory of the new cluster, which does not exist yet",
    )
    parser.add_argument(
        "--time",
        type=_moment,
        metavar="TIME",
        help="as of then: 2026-11-26T14:20:00, in UTC without another zone (default: all that there is)",
    )
    parser.add_argument(
        "--backup", metavar="NAME", help="begin with this one (default: the newest that is whole by then)"
    )
    parser.add_argument(
        "--replicas", type=int, choices=range(9), metavar="N", help="of each shard (default: as many as there were)"
    )
    parser.add_argument(
        "--journal-replicas",
        type=int,
        choices=range(3),
        metavar="N",
        help="of the journal (default: as many as there were)",
    )
    parser.add_argument(
        "--secrets", type=_path, metavar="FILE", help="the cluster's secrets.json, where the backup has none"
    )
    options = parser.parse_args(argv)
    os.umask(0o077)
    wanted = Wanted(options.time, options.backup, options.secrets, options.replicas, options.journal_replicas)
    restore.restore(Archive(options.archive), Directory(options.to), wanted)
    Console().say(f"restored: `manage.py cluster up --dir {options.to}` starts it")
    return 0


def _show(archive: Archive) -> None:
    table = Table("name", "begun", "whole from", "shards", "Tally", box=None, pad_edge=False)
    for one in backup.whole(archive):
        manifest = one.manifest
        times = _time(manifest.begun), _time(manifest.finished)
        table.add_row(manifest.name, *times, str(len(manifest.shards)), manifest.versions["tally"])
    Console().rich.print(table)


def _time(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S}Z"


def _path(text: str) -> Path:
    return Path(text).expanduser().resolve()


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _moment(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time like 2026-11-26T14:20:00") from error
    return found.replace(tzinfo=found.tzinfo or UTC, microsecond=0).astimezone(UTC)
