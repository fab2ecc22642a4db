"""`manage.py ingest`: the parsing, by property; exactly once, over runs, cuts and bad lines."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from django.core.management import CommandError
from hypothesis import given
from hypothesis import strategies as st

from counters.imports.lines import BadLine, Chunk, Format, chunks
from counters.operations import MAX_VALUE
from tests.cluster_plugin import MANAGE
from tests.conftest import Cluster, eventually, value_of

KEYS = st.from_regex(r"[A-Za-z0-9._:~@-]{1,20}", fullmatch=True)
INCREMENTS = st.lists(st.tuples(KEYS, st.integers(-(2**40), 2**40)), max_size=60)


def as_csv(increments: list[tuple[str, int]]) -> list[bytes]:
    return [b"key,delta\n", *(f"{key},{delta}\n".encode() for key, delta in increments)]


def as_ndjson(increments: list[tuple[str, int]]) -> list[bytes]:
    return [json.dumps({"key": key, "delta": delta}).encode() + b"\n" for key, delta in increments]


def total(parts: list[Chunk]) -> Counter[str]:
    sums: Counter[str] = Counter()
    for part in parts:
        for key, delta in part.folded.items():
            sums[key] += delta
    return sums


@given(INCREMENTS, st.integers(1, 25))
def test_both_formats_give_the_same_sums_whatever_the_chunks(increments: list[tuple[str, int]], size: int) -> None:
    expected: Counter[str] = Counter()
    for key, delta in increments:
        expected[key] += delta
    formats: list[tuple[list[bytes], Format]] = [(as_csv(increments), "csv"), (as_ndjson(increments), "ndjson")]
    for lines, form in formats:
        parts = list(chunks(lines, form, size=size))
        assert total(parts) == expected
        assert [part.number for part in parts] == list(range(len(parts)))
        assert sum(part.increments for part in parts) == len(increments)
        assert all(part.increments == size for part in parts[:-1])
        assert not parts or parts[-1].end == sum(map(len, lines))


@given(INCREMENTS.filter(bool), st.integers(1, 10), st.data())
def test_a_bad_line_is_named_or_skipped_and_moves_no_chunk(increments: list[tuple[str, int]], size: int, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(increments) - 1))
    lines = as_ndjson(increments)
    lines[place] = b'{"key": "a b", "delta": 1}\n'
    with pytest.raises(BadLine, match=rf"^line {place + 1}: a key has"):
        list(chunks(lines, "ndjson", size=size))
    whole, skipping = (
        list(chunks(as_ndjson(increments), "ndjson", size=size)),
        list(chunks(lines, "ndjson", size=size, skip_bad=True)),
    )
    assert sum(part.skipped for part in skipping) == 1
    assert [(part.number, part.first_line, part.last_line) for part in whole] == [
        (part.number, part.first_line, part.last_line) for part in skipping
    ]
    assert [part.digest for part in whole][: place // size] == [part.digest for part in skipping][: place // size]


@pytest.mark.parametrize(
    ("form", "line", "rule"),
    [
        ("csv", b"a\n", "two columns"),
        ("csv", b"a,1,2\n", "two columns"),
        ("csv", b"a,\n", "whole number"),
        ("csv", b"a,1.5\n", "whole number"),
        ("csv", b"a,1_000\n", "whole number"),
        ("csv", "a,\u0661\n".encode(), "whole number"),
        ("csv", f"a,{MAX_VALUE + 1}\n".encode(), "whole number"),
        ("csv", b",1\n", "a key has"),
        ("csv", b"a b,1\n", "a key has"),
        ("csv", b"k" * 200 + b",1\n", "with its prefix"),
        ("csv", b'"a,1\n', "CSV"),
        ("csv", b"\xff,1\n", "UTF-8"),
        ("ndjson", b"[1]\n", "Expected `object`"),
        ("ndjson", b'{"key": "a"}\n', "delta"),
        ("ndjson", b'{"key": "a", "delta": "1"}\n', "Expected `int`"),
        ("ndjson", b'{"key": "a", "delta": 1, "x": 1}\n', "unknown field"),
        ("ndjson", b'{"key": "a", "delta": 1}, \n', "trailing"),
        ("ndjson", b'{"key": "\xff", "delta": 1}\n', "UTF-8|utf-8"),
        ("ndjson", b'{"key": "a", "delta": 9223372036854775808}\n', "64 bits|whole number"),
    ],
)
def test_a_bad_line_breaks_a_rule(form: Format, line: bytes, rule: str) -> None:
    good = b"a,1\n" if form == "csv" else b'{"key": "a", "delta": 1}\n'
    with pytest.raises(BadLine, match=rf"line 2: .*({rule})"):
        list(chunks([good, line], form, prefix="p:"))


def test_spreadsheets_and_gaps() -> None:
    (part,) = chunks([b"\xef\xbb\xbfKey,Delta\r\n", b"\r\n", b'"a",+1\r\n', b" a , -3\r\n", b"b,2"], "csv")
    assert (part.folded, part.increments, part.last_line) == ({"a": -2, "b": 2}, 3, 5)


def test_a_sum_beyond_64_bits_is_a_bad_line() -> None:
    with pytest.raises(BadLine, match=r"line 2: .*add up"):
        list(chunks([f"a,{MAX_VALUE}\n".encode(), b"a,1\n"], "csv"))
    assert len(list(chunks([f"a,{MAX_VALUE}\n".encode(), b"a,1\n"], "csv", size=1))) == 2


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
    found = client.get("/v1/counters", params=[("consistency", "primary"), *(("key", f"{prefix}k{n}") for n in range(100))]).json()
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
