"""`manage.py ingest`: the parsing, by property; exactly once, over runs, cuts and bad lines."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from django.core.management import CommandError

from counters.operations import MAX_VALUE
from tests.support.cluster import Cluster, eventually, value_of
from tests.support.commands import MANAGE
from tests.support.lines import as_csv, as_ndjson


def ingest(cluster: Cluster, *args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return cluster.manage("ingest", *args, check=False, **options)


def test_counted_once_however_often(cluster: Cluster, client: httpx.Client, tmp_path: Path) -> None:
    prefix, file = f"{uuid4().hex}:", tmp_path / "counts.csv"
    file.write_bytes(b"".join(as_csv([(f"k{n % 7}", n) for n in range(1000)])))
    first = ingest(cluster, str(file), "--prefix", prefix, "--chunk", "100")
    assert first.returncode == 0, first.stderr
    assert "1,000 increments in 10 chunks" in first.stdout
    assert "applied" in first.stdout
    again = ingest(cluster, str(file), "--prefix", prefix, "--chunk", "100")
    assert "10 chunks were repeats" in again.stdout
    for rest in range(7):
        assert value_of(client, f"{prefix}k{rest}") == sum(range(rest, 1000, 7))
    other = ingest(cluster, str(file), "--prefix", prefix, "--chunk", "200")
    assert other.returncode == 1
    assert "--chunk" in other.stderr


def test_a_run_that_was_killed_goes_on(cluster: Cluster, client: httpx.Client, tmp_path: Path) -> None:
    prefix, file = f"{uuid4().hex}:", tmp_path / "counts.csv"
    file.write_bytes(b"".join(as_csv([(f"k{n % 100}", 1) for n in range(200_000)])))
    args = ["ingest", str(file), "--prefix", prefix, "--chunk", "1000"]
    env = {**os.environ, "TALLY_ENV_FILE": str(cluster.dir / "env")}
    with subprocess.Popen([*MANAGE, *args], env=env, stderr=subprocess.DEVNULL) as running:
        eventually(lambda: value_of(client, f"{prefix}k0"), pause=0.01)
        running.kill()
    again = cluster.manage(*args)
    assert 1 <= int(again.stdout.split("; ")[1].split()[0]) < 200, again.stdout
    found = client.get(
        "/v1/counters", params=[("consistency", "primary"), *(("key", f"{prefix}k{n}") for n in range(100))]
    ).json()
    assert {one["value"] for one in found["results"]} == {2000}


def test_a_run_that_stopped_at_a_bad_line_goes_on(cluster: Cluster, client: httpx.Client, tmp_path: Path) -> None:
    prefix, file = f"{uuid4().hex}:", tmp_path / "counts.ndjson"
    lines = as_ndjson([("k", 1)] * 50)
    file.write_bytes(b"".join([*lines[:35], b'{"key": "k"}\n', *lines[36:]]))
    stopped = ingest(cluster, str(file), "--prefix", prefix, "--chunk", "10")
    assert stopped.returncode == 1
    assert "line 36" in stopped.stderr
    assert value_of(client, f"{prefix}k") <= 30
    name = stopped.stderr.split("--name ")[1].split(",")[0]
    file.write_bytes(b"".join(lines))
    mended = ingest(cluster, str(file), "--prefix", prefix, "--chunk", "10", "--name", name)
    assert mended.returncode == 0, mended.stderr
    assert "3 chunks were repeats" in mended.stdout
    assert value_of(client, f"{prefix}k") == 50


def test_standard_input_and_skipping(cluster: Cluster, client: httpx.Client) -> None:
    prefix = f"{uuid4().hex}:"
    done = ingest(cluster, "-", "--format", "csv", "--prefix", prefix, "--skip-bad", input="k,1\nk\nk,2\n")
    assert done.returncode == 0, done.stderr
    assert "1 bad lines skipped" in done.stdout
    assert value_of(client, f"{prefix}k") == 3


def test_what_leaves_64_bits_is_rejected_aloud(cluster: Cluster, client: httpx.Client) -> None:
    prefix = f"{uuid4().hex}:"
    done = ingest(cluster, "-", "--format", "csv", "--prefix", prefix, "--chunk", "1", input=f"k,{MAX_VALUE}\nk,1\n")
    assert done.returncode == 1
    assert f"rejected: {prefix}k (lines 2 to 2): overflow" in done.stderr
    assert value_of(client, f"{prefix}k") == MAX_VALUE


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["missing.csv"], "cannot read missing.csv"),
        (["counts.txt"], "say --format"),
        (["counts.csv", "--prefix", "a b"], "--prefix:"),
        (["counts.csv", "--chunk", "0"], "--chunk:"),
    ],
)
def test_bad_arguments(cluster: Cluster, args: list[str], sentence: str) -> None:
    with pytest.raises(CommandError, match=re.escape(sentence)):
        cluster.command("ingest", *args)
