"""A client: one write at a time, repeated (usually under its Idempotency-Key) until it is answered; each answer is compared.

503 (and 429) mean "again later"; any other answer that is not expected is a complaint, and a complaint fails the run.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from benchmarks.chaos.entries import Entry
from benchmarks.chaos.expected_counts import ExpectedCounts, Favour, Owned, Waited
from benchmarks.chaos.wire import Answer, NoAnswer, Wire

T = TypeVar("T")
JSON, MSGPACK = "application/json", "application/msgpack"
PATIENCE_SECONDS = 150.0  # after which a write without an answer is a hang, and a complaint
WAIT_SECONDS = 8  # of ?wait=
SETTLE_SECONDS = 10.0  # for loose increments to be counted
STEP_TIMEOUT_SECONDS = 40.0  # PUT and DELETE wait up to 30
PLAIN_TIMEOUT_SECONDS = 10.0
IMPATIENT = (
    0.04  # share of writes whose first attempt is given up at once, so that a repeat meets its original under way
)


class Unanswered(Exception):
    """A write got no answer for `PATIENCE_SECONDS`."""


@dataclass(slots=True)
class Request:
    """A write as it goes over the wire; all attempts are the same bytes. `token`: its Idempotency-Key, or ""."""

    kind: str
    method: str
    path: str
    body: bytes | None
    token: str
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float = PLAIN_TIMEOUT_SECONDS

    def all_headers(self) -> dict[str, str]:
        headers = {"Idempotency-Key": self.token, **self.headers} if self.token else self.headers
        return headers if self.body is None else {"Content-Type": JSON, **headers}


class Client:
    """One connection, one random stream, its expected counts. `spills`: increments may be spilled (`Owned.loose`)."""

    def __init__(self, name: str, wire: Wire, rng: random.Random, *, spills: bool = False) -> None:
        self.name, self.wire, self.rng, self.spills = name, wire, rng, spills
        self.expected = ExpectedCounts()
        self.accepted = 0  # answered writes, for the throughput
        self._number = 0
        self._answered: deque[tuple[Request, Answer]] = deque(maxlen=50)
        self._long_ago: list[tuple[Request, Answer]] = []

    def request(self, kind: str, method: str, path: str, body: bytes | None, **options: Any) -> Request:
        """A write with an Idempotency-Key of its own."""
        self._number += 1
        return Request(kind, method, path, body, f"{self.name}-{self._number}", **options)

    def complain(self, text: str) -> None:
        """Note what must not be."""
        self.expected.complaints.append(f"{self.name}: {text}")

    # --- writes -------------------------------------------------------------------------------------------------------------

    def increment(self, key: str, delta: int, *, kind: str = "single") -> None:
        """Add to a shared key."""
        request = self.request(kind, "POST", f"/v1/counters/{key}/increments", b'{"delta":%d}' % delta)
        if self.write(request, {key: delta}, (202,)):
            self.expected.added[key] += delta

    def bulk(self, deltas: Mapping[str, int], body: bytes, media: str) -> None:
        """Add to many shared keys."""
        request = self.request("bulk", "POST", "/v1/increments", body, headers={"Content-Type": media})
        if answer := self.write(request, deltas, (202,)):
            self.expected.added.update(_accepted(deltas, answer))

    def waited(self, key: str, delta: int) -> bool:
        """Add to a shared key and wait for the result. Returns whether it came."""
        path = f"/v1/counters/{key}/increments?wait={WAIT_SECONDS}"
        request = self.request(
            "waited", "POST", path, b'{"delta":%d}' % delta, timeout=WAIT_SECONDS + PLAIN_TIMEOUT_SECONDS
        )
        answer = self.write(request, {key: delta}, (200, 202))
        if answer is None:
            return False
        self.expected.added[key] += delta
        if answer.status == 200:
            told = answer.json
            self.expected.waited.append(Waited(key, told["version"], told["value"], delta, told["id"]))
        return answer.status == 200

    def favour(self, favour: Favour) -> None:
        """Add to a key that another client owns."""
        request = self.request(
            "favour", "POST", f"/v1/counters/{favour.key}/increments", b'{"delta":%d}' % favour.delta
        )
        favour.done = self.write(request, {favour.key: favour.delta}, (202,)) is not None

    def own_increment(self, owned: Owned, delta: int, *, wait: bool) -> None:
        """Add to an owned key; if it does not fit, it must be rejected."""
        fits = owned.fits(delta)
        path, timeout = f"/v1/counters/{owned.key}/increments", PLAIN_TIMEOUT_SECONDS
        if wait:
            path, timeout = f"{path}?wait={WAIT_SECONDS}", WAIT_SECONDS + PLAIN_TIMEOUT_SECONDS
        request = self.request("own increment", "POST", path, b'{"delta":%d}' % delta, timeout=timeout)
        answer = self.write(request, {owned.key: delta}, (202, 200 if fits else 409) if wait else (202,))
        if answer is None:
            return
        if not fits:
            self.expected.rejected[answer.json["id"]] = owned.key
            self._check_value(owned, answer, owned.value, {409})
            if not wait:
                owned.loose.append(answer.json["id"])
                owned.unfit.append(answer.json["id"])
            return
        self._check_value(owned, answer, owned.value + delta, {200})
        owned.changed(owned.value + delta, answer.json.get("version"))
        if not wait:
            owned.loose.append(answer.json["id"])

    def settled(self, owned: Owned) -> bool:
        """Whether all loose increments of a key are counted, after waiting for that for some time."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while self.spills and owned.loose and time.monotonic() < deadline:
            try:
                answer = self.wire.ask("GET", f"/v1/writes/{owned.loose[0]}", timeout=PLAIN_TIMEOUT_SECONDS)
            except NoAnswer:
                continue
            if answer.status == 200 and answer.json["status"] in {"applied", "rejected"}:
                owned.loose.pop(0)
            else:
                time.sleep(0.05)
        return not (self.spills and owned.loose)

    def put(self, owned: Owned, value: int) -> None:
        """Set an owned key, or reset it (0). Voids every increment acknowledged before."""
        path = f"/v1/counters/{owned.key}"
        if value:
            request = self.request("set", "PUT", path, b'{"value":%d}' % value, timeout=STEP_TIMEOUT_SECONDS)
        else:
            request = self.request("reset", "DELETE", path, None, timeout=STEP_TIMEOUT_SECONDS)
        answer = self.write(request, {owned.key: None}, (200, 202))
        if answer is None:
            return
        self._check_value(owned, answer, value, {200})
        owned.changed(value, answer.json.get("version"))
        self.expected.voidable.update(dict.fromkeys(owned.unfit, answer.json.get("version", 0)))
        owned.loose, owned.unfit = [], []  # void if they are not applied yet

    def compare_and_set(self, owned: Owned, value: int) -> None:
        """Compare-and-set an owned key with the last version returned, or at times an older one. It must succeed exactly if that
        version is current."""
        matches = owned.told
        version = owned.version
        if matches and self.rng.random() < 0.4 and version > 0:
            matches, version = False, version - 1
        headers = {"If-Match": f'"{version}"'}
        path = f"/v1/counters/{owned.key}"
        request = self.request(
            "cas", "PUT", path, b'{"value":%d}' % value, headers=headers, timeout=STEP_TIMEOUT_SECONDS
        )
        answer = self.write(request, {owned.key: None}, (202, 200 if matches else 412))
        if answer is None:
            return
        if matches:
            self._check_value(owned, answer, value, {200})
            owned.changed(value, answer.json.get("version"))
        else:
            self.expected.rejected[answer.json["id"]] = owned.key
            self._check_value(owned, answer, owned.value, {412})

    def repeat(self) -> None:
        """Repeat a recent or old answered write: it must get the same answer and count nothing."""
        source = self._long_ago if self._long_ago and self.rng.random() < 0.5 else self._answered
        if not source:
            return
        request, first = self.rng.choice(source)
        again = self._until_answered(request, patient=True)
        if again is None:
            return
        self.expected.repeats += 1
        if again.status != first.status:
            if 202 not in (again.status, first.status):
                self.complain(f"repeat of {request.token} got {again.status}, first {first.status} {first.body!r}")
        elif again.json != first.json:
            self.complain(f"repeat of {request.token} got {again.body!r}, first {first.body!r}")

    def mismatch(self) -> None:
        """An Idempotency-Key with another body must be refused with 422."""
        singles = [request for request, _ in self._answered if request.kind == "single"]
        if singles:
            old = singles[0]
            request = Request("mismatch", old.method, old.path, b'{"delta":4711}', old.token)
            answer = self._until_answered(request, patient=True)
            if answer and answer.status != 422:
                self.complain(f"another body under {old.token} got {answer.status} {answer.body!r}")

    def write(self, request: Request, keys: Mapping[str, int | None], statuses: tuple[int, ...]) -> Answer | None:
        """Send until answered, and remember the write. Returns None, with a complaint, for an unexpected answer."""
        sent = time.monotonic()
        tries = self.expected.retries + self.expected.refused
        answer = self._until_answered(request)
        if answer is None:
            return None
        if answer.status not in statuses:
            self.complain(
                f"{request.kind} {request.method} {request.path} {request.token} got {answer.status}: {answer.body[:500]!r}"
            )
            return None
        attempts = 1 + self.expected.retries + self.expected.refused - tries
        told = answer.json
        id = told.get("id") or f"{request.token} of version {told.get('version')}"
        kept = _accepted(keys, answer)
        self.expected.entries.append(Entry(request.kind, id, sent, time.monotonic(), attempts, answer.status, kept))
        self.accepted += 1
        self.expected.spilled += told.get("status") == "excess" or "excess" in told
        self.expected.refusals.update(f"429, {one['rule']}, part of a bulk write" for one in told.get("refused", ()))
        if request.token:
            self._keep(request, answer)
        return answer

    # --- underneath ---------------------------------------------------------------------------------------------------------

    def _check_value(self, owned: Owned, answer: Answer, value: int, statuses: set[int]) -> None:
        """Complain if the answer has one of `statuses` and its value or version is wrong."""
        if answer.status not in statuses:
            return
        told = answer.json
        if told.get("value") != value:
            self.complain(f"{owned.key} told {told}, must be {value}")
        if answer.status == 200 and told["version"] <= owned.version:
            self.complain(f"{owned.key} told {told}, but version {owned.version} was told before")

    def _keep(self, request: Request, answer: Answer) -> None:
        """Keep the answer for repeats: the latest ones, and a sample of all (reservoir sampling)."""
        self._answered.append((request, answer))
        if len(self._long_ago) < 200:
            self._long_ago.append((request, answer))
        elif (place := self.rng.randrange(self._number)) < 200:
            self._long_ago[place] = (request, answer)

    def _until_answered(self, request: Request, *, patient: bool = False) -> Answer | None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        pause = 0.05
        timeout = request.timeout if patient or self.rng.random() > IMPATIENT else self.rng.uniform(0.002, 0.03)
        while True:
            if (answer := self._attempt(request, timeout)) is not None:
                return answer
            if time.monotonic() > deadline:
                self.complain(
                    f"{request.kind} {request.method} {request.path} {request.token} had no answer for {PATIENCE_SECONDS:.0f} s"
                )
                return None
            timeout = request.timeout
            time.sleep(pause * self.rng.uniform(0.5, 1))
            pause = min(pause * 1.5, 0.5)

    def _attempt(self, request: Request, timeout: float) -> Answer | None:
        try:
            answer = self.wire.ask(request.method, request.path, request.body, request.all_headers(), timeout=timeout)
        except NoAnswer:
            self.expected.retries += 1
            return None
        if answer.status not in (429, 503):
            return answer
        self.expected.refused += 1
        self.expected.refusals[_reason(answer)] += 1
        if not answer.headers.get("retry-after"):
            self.complain(f"{answer.status} without Retry-After: {answer.body[:200]!r}")
        return None


def _reason(answer: Answer) -> str:
    """Why an attempt is to be made again: the status, and of 429 the rules."""
    errors = answer.json.get("errors", ()) if answer.status == 429 else ()
    return ", ".join([str(answer.status), *sorted({one["rule"].partition(":")[0] for one in errors})])


def _accepted(keys: Mapping[str, T], answer: Answer) -> dict[str, T]:
    """Those keys of a write that were not refused."""
    refused = {one.get("key") for one in answer.json.get("refused", ())} if answer.status == 202 else set()
    return {key: value for key, value in keys.items() if key not in refused}


def until(stop: Callable[[], bool], act: Callable[[], None], pause: Callable[[], float]) -> None:
    """Act again and again, with pauses (seconds)."""
    while not stop():
        act()
        time.sleep(pause())
