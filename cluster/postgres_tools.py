"""PostgreSQL's own programs for backups, as functions: `pg_basebackup`, `pg_verifybackup`, and a server that recovers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from . import ClusterError
from .child import said
from .programs import Programs

_PROGRESS = re.compile(r"(\d+)/(\d+) kB")
_TOO_EARLY = "recovery ended before configured recovery target was reached"
_LAST = re.compile(r"last completed transaction was at log time (\S+ \S+)")


class Failed(Exception):
    """A program has failed; the text is what it said."""


@dataclass(frozen=True)
class Range:
    """The WAL that a base backup needs: it is whole from `end` on."""

    timeline: int
    start: int
    end: int

    @classmethod
    def of(cls, backup: Path) -> Range:
        """As the backup's own manifest says."""
        last = json.loads((backup / "backup_manifest").read_text())["WAL-Ranges"][-1]
        return cls(int(last["Timeline"]), position(last["Start-LSN"]), position(last["End-LSN"]))

    def first_segment(self, size: int) -> str:
        """The name of the segment, of `size` bytes, in which it begins."""
        number, each = self.start // size, (1 << 32) // size
        return f"{self.timeline:08X}{number // each:08X}{number % each:08X}"


def position(lsn: str) -> int:
    """A WAL position in bytes."""
    high, low = lsn.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def base_backup(  # noqa: PLR0913
    programs: Programs, target: Path, *, port: int, user: str, password: str, tell: Callable[[int, int], None]
) -> None:
    """Copy a running server with the WAL that the copy needs; `tell` gets the kB that are done and all. Raises
    `Failed`."""
    command = [
        *(str(programs.postgres_bin / "pg_basebackup"), "--pgdata", str(target), "--host", "127.0.0.1"),
        *("--port", str(port), "--username", user, "--no-password", "--checkpoint", "fast"),
        *("--wal-method", "stream", "--progress", "--label", "tally"),
    ]
    environment = {**_without_pg(), "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "5"}
    text_so_far = ""
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        while text := os.read(process.stderr.fileno(), 4096).decode(errors="replace"):
            text_so_far = (text_so_far + text)[-4096:]
            if found := _PROGRESS.findall(text):
                tell(int(found[-1][0]), int(found[-1][1]))
    if process.returncode:
        raise Failed(_errors(text_so_far) or f"pg_basebackup: exit {process.returncode}")


def verify(programs: Programs, backup: Path) -> None:
    """Compare a base backup with its manifest, and read its WAL. Raises `Failed`."""
    command = [str(programs.postgres_bin / "pg_verifybackup"), "--quiet", "--exit-on-error", str(backup)]
    done = subprocess.run(command, env=_without_pg(), check=False, capture_output=True, text=True)
    if done.returncode:
        raise Failed(_errors(done.stderr) or f"pg_verifybackup: exit {done.returncode}")


def _without_pg() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _errors(output: str) -> str:
    lines = [line.strip() for line in re.split(r"[\r\n]+", output)]
    return "; ".join(line for line in lines if "error" in line or "FATAL" in line)


@dataclass(frozen=True)
class Recovered:
    """How far a recovery went. `position`: the end of WAL, in bytes; `last`: the time of the last commit in it, as
    PostgreSQL prints it, "" if there was none. `reached`: it stopped at its target, and did not run out of WAL."""

    position: int
    last: str
    reached: bool


def recover(programs: Programs, data: Path, log: Path, restore_command: str | None, at: datetime | None) -> Recovered:
    """Recover a copied base backup: to a moment, or to the end of its archive, or without an archive to the end of the
    backup. Afterwards it is a primary that was shut down, on the disk. Raises `ClusterError`."""
    (data / "standby.signal").unlink(missing_ok=True)
    before = set((data / "pg_wal").glob("*.history"))
    reached = at is not None
    try:
        _run(programs, data, log, restore_command, at)
    except _TooEarly:
        reached = False
        _run(programs, data, log, restore_command, None)
    sync = (*programs.unprivileged, str(programs.postgres_bin / "initdb"), "--sync-only", "--pgdata", str(data))
    with log.open("ab") as output:
        if subprocess.run(sync, env=_without_pg(), check=False, stdout=output, stderr=output).returncode:
            raise ClusterError(f"{data} could not be flushed to the disk; {said(log)}")
    found = _LAST.findall(log.read_text(errors="replace"))
    new = max(set((data / "pg_wal").glob("*.history")) - before, default=None)
    lines = new.read_text().splitlines() if new else []
    ends = [position(line.split("\t")[1]) for line in lines if line]
    return Recovered(ends[-1] if ends else 0, found[-1] if found else "", reached)


class _TooEarly(Exception):
    """The WAL ended before the target."""


def _run(programs: Programs, data: Path, log: Path, restore_command: str | None, at: datetime | None) -> None:
    """Run a server that nobody else can connect to until it has recovered. Raises `_TooEarly`, `ClusterError`."""
    if restore_command:
        (data / "recovery.signal").touch(mode=0o600)
    home = Path(tempfile.mkdtemp(prefix="tally-"))  # short enough for a socket, and for the owner alone
    config = home / "postgresql.conf"
    config.write_text(_settings(home, restore_command, at))
    command = (*programs.unprivileged, str(programs.postgres_bin / "postgres"), "-D", str(data))
    began = log.stat().st_size if log.exists() else 0
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*command, "-c", f"config_file={config}"], env=_without_pg(), stdout=output, stderr=output
        )
    try:
        while process.poll() is None and not _is_ready(data):
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait()
        shutil.rmtree(home)
    if _TOO_EARLY in log.read_bytes()[began:].decode(errors="replace"):
        raise _TooEarly
    if code:
        raise ClusterError(f"PostgreSQL could not recover the backup; {said(log, began)}")


def _is_ready(data: Path) -> bool:
    """Whether its server has recovered, as the server writes it into its file."""
    try:
        return (data / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return False


def _settings(home: Path, restore_command: str | None, at: datetime | None) -> str:
    settings = {
        "listen_addresses": "",
        "unix_socket_directories": str(home),
        "hot_standby": "off",  # else it would want the settings of the server that was copied
        "archive_mode": "off",
        "wal_level": "replica",
        "wal_log_hints": "on",
        "max_wal_size": "2GB",
        "fsync": "off",  # all of it is flushed once, afterwards
        "timezone": "UTC",
        "log_timezone": "UTC",
        "logging_collector": "off",
    }
    if restore_command:
        settings |= {"restore_command": restore_command, "recovery_target_action": "promote"}
    if at is not None:
        settings["recovery_target_time"] = at.isoformat(sep=" ")
    return "".join(f"{name} = '{value.replace(chr(39), 2 * chr(39))}'\n" for name, value in settings.items())
