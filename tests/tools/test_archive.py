"""The archive: files of WAL, the journal's log against a real Valkey, whose archive it is, and what is deleted."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from cluster import ClusterError, aof, archive_wal, layout, programs
from cluster.archive import Archive
from cluster.archive_wal import Refused, store
from cluster.configs import restore_command
from cluster.journal_archive import Generation, choose
from cluster.layout import Layout
from tests.support.cluster import eventually

MB = 1024 * 1024
SEGMENT = "000000010000000000000007"


@pytest.fixture
def segment(tmp_path: Path) -> Path:
    """A segment that was switched after a block and a bit."""
    home = tmp_path / "pg_wal"
    home.mkdir()
    (home / SEGMENT).write_bytes(os.urandom(archive_wal.BLOCK + 10) + bytes(MB - archive_wal.BLOCK - 10))
    return home / SEGMENT


@pytest.fixture
def wal(tmp_path: Path) -> Path:
    directory = tmp_path / "wal %d"
    directory.mkdir()
    return directory


def other(segment: Path) -> Path:
    """Another file of the same name."""
    found = segment.parent.parent / "other" / segment.name
    found.parent.mkdir(exist_ok=True)
    found.write_bytes(os.urandom(MB))
    return found


def test_a_file_is_archived_once_and_its_zeros_take_no_space(segment: Path, wal: Path) -> None:
    store(segment, wal)
    store(segment, wal)
    assert (wal / SEGMENT).read_bytes() == segment.read_bytes()
    assert (wal / SEGMENT).stat().st_blocks * 512 < MB // 2
    assert [path.name for path in wal.iterdir()] == [SEGMENT]


def test_another_file_is_refused_and_the_first_one_stays(segment: Path, wal: Path) -> None:
    store(segment, wal)
    with pytest.raises(Refused, match="was not replaced"):
        store(other(segment), wal)
    assert (wal / SEGMENT).read_bytes() == segment.read_bytes()
    assert [path.name for path in wal.iterdir()] == [SEGMENT]


@pytest.mark.parametrize(("end", "is_behind"), [("0/700010", True), ("0/7FFFFF", True), ("0/800000", False)])
def test_what_a_node_wrote_behind_a_failover_is_kept_apart(
    segment: Path, wal: Path, end: str, *, is_behind: bool
) -> None:
    """Segments have a megabyte here, so this one ends at 0/800000."""
    store(segment, wal)
    (wal / "00000002.history").write_text(f"1\t{end}\tno recovery target specified\n\n")
    if not is_behind:
        with pytest.raises(Refused):
            store(other(segment), wal)
        return
    for _ in range(2):
        store(other(segment), wal)
    assert (wal / SEGMENT).read_bytes() == segment.read_bytes()
    assert len(list((wal / archive_wal.FORKED).iterdir())) == 2


def test_two_nodes_archive_the_same_segment_at_once(segment: Path, wal: Path) -> None:
    command = [sys.executable, "-I", "-S", "-B", archive_wal.__file__, str(segment), str(wal)]
    running = [subprocess.Popen(command) for _ in range(4)]
    assert [one.wait(60) for one in running] == [0] * 4
    assert [path.name for path in wal.iterdir()] == [SEGMENT]


def test_a_full_or_missing_archive_is_told_and_leaves_nothing(segment: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-I", "-S", "-B", archive_wal.__file__, str(segment), str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "archive_wal: " in done.stderr
    assert "Traceback" not in done.stderr


def test_the_restore_command_fetches_what_was_stored(segment: Path, wal: Path, tmp_path: Path) -> None:
    store(segment, wal)
    command = restore_command(wal).replace("%f", SEGMENT).replace("%p", str(tmp_path / "back")).replace("%%", "%")
    subprocess.run(["sh", "-c", command], check=True)
    assert (tmp_path / "back").read_bytes() == segment.read_bytes()


def test_an_archive_belongs_to_one_cluster(tmp_path: Path) -> None:
    archive = Archive(tmp_path / "archive")
    archive.claim("a", tmp_path / "one", 2)
    archive.claim("a", tmp_path / "one", 2)
    assert archive.root.stat().st_mode & 0o077 == 0
    with pytest.raises(ClusterError, match="of another cluster"):
        archive.claim("b", tmp_path / "two", 2)


def test_another_archive_gets_another_name() -> None:
    first = layout.with_archive(Layout(), "/a")
    assert layout.with_archive(first, "/a") == first
    assert layout.with_archive(first, "") == Layout()
    assert layout.with_archive(layout.with_archive(first, ""), "/a").archive_id not in ("", first.archive_id)


def test_wal_from_before_a_backup_is_deleted_of_all_timelines(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    archive.claim("a", tmp_path, 1)
    (archive.wal(0) / archive_wal.FORKED).mkdir()
    stays = ["000000010000000000000005", "000000020000000000000006", "00000002.history"]
    goes = ["000000010000000000000004", "000000020000000000000003.partial", "000000010000000000000004.00000028.backup"]
    for name in [*stays, *goes, f"{archive_wal.FORKED}/000000010000000000000002.abc"]:
        (archive.wal(0) / name).touch()
    assert archive.forget_wal(0, "000000020000000000000005") == len(goes) + 1
    assert sorted(path.name for path in archive.wal(0).iterdir()) == sorted([*stays, archive_wal.FORKED])


def generation(name: str, base_time: float, began: float, ended: float) -> Generation:
    return Generation(Path(name), base_time, began, ended)


def test_the_generation_that_was_followed_at_a_moment_has_it() -> None:
    first = generation("first", 0, 0, 100)
    failed_over = generation("another server, with an older base", 50, 100, 200)
    rewritten = generation("rewritten", 199, 200, 300)
    after_a_pause = generation("the archiver was down", 299, 400, 500)
    every = [first, failed_over, rewritten, after_a_pause]
    found = {at: choose(every, at) for at in (60.0, 150.0, 199.5, 250.0, 350.0, 450.0, 999.0)}
    assert list(found.values()) == [
        first,
        failed_over,
        failed_over,
        rewritten,
        after_a_pause,
        after_a_pause,
        after_a_pause,
    ]
    assert choose(every, None) == after_a_pause
    assert choose(every, -1.0) is None
    assert choose([], 1.0) is None


# The journal's log, written by a real server


class Server:
    """A Valkey with an AOF."""

    def __init__(self, home: Path, port: int) -> None:
        self.home, self._port = home, port
        home.mkdir()
        self.start()

    @property
    def aof(self) -> Path:
        return self.home / aof.DIRECTORY

    def start(self) -> None:
        options = ("--save", "", "--appendonly", "yes", "--appendfsync", "always", "--aof-timestamp-enabled", "yes")
        where = ("--bind", "127.0.0.1", "--port", str(self._port), "--dir", str(self.home))
        self._process = subprocess.Popen([programs.find().redis, *where, *options], stdout=subprocess.DEVNULL)
        self.client = Redis(port=self._port, decode_responses=True)
        eventually(self._answers)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except RedisError:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = next(port for port in layout.PORT_RANGE if layout.port_is_free(port))
    running = Server(tmp_path / "server", port)
    yield running
    running.stop()


def restarted(server: Server, copy: Path) -> Redis:
    """A client of a server that has loaded a copy."""
    server.stop()
    server.aof.rename(server.home / "before")
    copy.rename(server.aof)
    server.start()
    return server.client


def test_a_followed_log_has_all_until_the_rewrite_and_the_next_one_all_after_it(server: Server, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    server.client.set("a", 1)
    running = aof.Copy(server.aof, first)
    running.follow()
    server.client.set("b", 2)
    server.client.bgrewriteaof()
    eventually(
        lambda: (
            not server.client.info("persistence")["aof_rewrite_in_progress"]
            and "2.base" in str(list(server.aof.iterdir()))
        )
    )
    server.client.set("c", 3)
    with pytest.raises(aof.Changed):
        running.follow()
    running.close()
    aof.copy(server.aof, second)
    assert "1.incr" in str(list(first.iterdir()))
    assert restarted(server, first).mget("a", "b") == ["1", "2"]
    (server.home / "before").rename(tmp_path / "away")
    assert restarted(server, second).mget("a", "b", "c") == ["1", "2", "3"]


def test_a_copy_is_cut_at_a_second(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    server.client.set("a", 1)
    before = int(server.client.time()[0])
    eventually(lambda: int(server.client.time()[0]) > before, pause=0.01)
    server.client.bgrewriteaof()
    server.client.set("b", "#TS:1\r\n*1\r\n")
    server.client.set("a", 2)
    eventually(
        lambda: (
            not server.client.info("persistence")["aof_rewrite_in_progress"]
            and "2.base" in str(list(server.aof.iterdir()))
        )
    )
    second = int(server.client.time()[0])
    eventually(lambda: int(server.client.time()[0]) > second, pause=0.01)
    server.client.set("a", 3)
    aof.copy(server.aof, copy)
    aof.cut(copy, second, programs.find().redis)
    client = restarted(server, copy)
    assert client.mget("a", "b") == ["2", "#TS:1\r\n*1\r\n"]
    assert client.set("c", 1)


def test_a_server_that_lost_its_disk_is_another(server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    server.client.set("a", 1)
    running = aof.Copy(server.aof, copy)
    running.follow()
    server.stop()
    server.aof.rename(server.home / "lost")
    server.start()
    with pytest.raises(aof.Changed):
        running.follow()
    running.close()
    assert restarted(server, copy).get("a") == "1"
