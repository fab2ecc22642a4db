"""`make words`: count every word of Python's standard library through the bulk call, and compare each count with the one
computed here.

`--ndjson FILE` writes the same increments for `manage.py ingest`, `--check-only` compares without counting first.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
from rich.console import Console
from rich.progress import Progress, track

from runtime import polling

BODY = 10_000  # increments a request
CLIENTS = 4
WORD = re.compile(r"[A-Za-z0-9_]{1,190}")
console = Console()


def words() -> Iterator[str]:
    """Every word of every .py file of the standard library, lowercased, in a fixed order."""
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        if "site-packages" not in path.parts:
            yield from (word.lower() for word in WORD.findall(path.read_text(encoding="utf-8", errors="replace")))


def count(client: httpx.Client, keys: list[str], run: str) -> float:
    """Send one increment a key; the seconds that took. Bodies have an idempotency key, so a repeated run counts nothing
    twice."""
    bodies = [keys[start : start + BODY] for start in range(0, len(keys), BODY)]
    started = time.perf_counter()
    with Progress(console=console) as progress, ThreadPoolExecutor(CLIENTS) as pool:
        bar = progress.add_task("counting", total=len(keys))

        def send(number: int) -> None:
            body = {"increments": [{"key": key, "delta": 1} for key in bodies[number]]}
            answer = client.post("/v1/increments", json=body, headers={"Idempotency-Key": f"{run}:{number}"})
            answer.raise_for_status()
            progress.advance(bar, answer.json()["accepted"])

        list(pool.map(send, range(len(bodies))))
    return time.perf_counter() - started


def differences(client: httpx.Client, expected: Counter[str]) -> dict[str, tuple[int, int]]:
    """Keys whose count on the primary is not the expected one: (counted, expected)."""
    wrong, keys = {}, list(expected)
    for start in track(range(0, len(keys), 200), description="comparing", console=console):
        chunk = keys[start : start + 200]
        answer = client.get("/v1/counters", params=[("consistency", "primary"), *(("key", key) for key in chunk)])
        answer.raise_for_status()
        for counter in answer.json()["results"]:
            if counter["value"] != expected[counter["key"]]:
                wrong[counter["key"]] = counter["value"], expected[counter["key"]]
    return wrong


def compare(client: httpx.Client, expected: Counter[str], seconds: float) -> dict[str, tuple[int, int]]:
    """Differences once the counts have come down, or after `seconds`."""
    for _ in polling.attempts(seconds, pause=1):
        if not (wrong := differences(client, expected)):
            break
    return wrong


def main() -> int:
    """Exit status 0 if every count is exact."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key-file", type=Path, default=Path(".cluster/api-key"))
    parser.add_argument("--prefix", default="word:")
    parser.add_argument(
        "--run", default=f"words-{time.time_ns()}", help="name of the run: the same name counts nothing twice"
    )
    parser.add_argument("--ndjson", type=Path, help="write the increments to this file and count nothing")
    parser.add_argument("--check-only", action="store_true")
    options = parser.parse_args()
    found = list(words())
    if options.ndjson:
        options.ndjson.write_text("".join(json.dumps({"key": word, "delta": 1}) + "\n" for word in found))
        console.print(f"{len(found):,} increments written to {options.ndjson}")
        return 0
    if not options.key_file.is_file():
        console.print(f"{options.key_file} is missing: start the cluster (make run), or give --key-file")
        return 1
    key = options.key_file.read_text().strip()
    with httpx.Client(base_url=options.url, headers={"Authorization": f"Api-Key {key}"}, timeout=60) as client:
        keys = [options.prefix + word for word in found]
        before = Counter() if options.check_only else current(client, set(keys))
        if not options.check_only:
            seconds = count(client, keys, options.run)
            console.print(f"{len(keys):,} increments accepted in {seconds:.1f} s ({len(keys) / seconds:,.0f}/s)")
        wrong = compare(client, Counter(keys) + before, seconds=60)
    for name, (counted, wanted) in list(wrong.items())[:10]:
        console.print(f"{name}: counted {counted}, expected {wanted}")
    console.print(f"{len(set(keys)):,} counters, {len(wrong):,} differences")
    return 1 if wrong else 0


def current(client: httpx.Client, keys: set[str]) -> Counter[str]:
    """Counts that an earlier run left."""
    return Counter(
        {key: counted for key, (counted, _) in differences(client, Counter(dict.fromkeys(keys, -1))).items()}
    )


if __name__ == "__main__":
    sys.exit(main())
