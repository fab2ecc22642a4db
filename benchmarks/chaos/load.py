"""The load: clients of the mix, the probes and the sampler, each a thread; started, and stopped with every write
answered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from benchmarks.chaos.chance import stream
from benchmarks.chaos.client import PATIENCE_SECONDS, Client
from benchmarks.chaos.expected_counts import ExpectedCounts, Favour
from benchmarks.chaos.mix import Mixer, Names
from benchmarks.chaos.probes import Epoch, Pulse, Reader, Successes, Waiter, guarded
from benchmarks.chaos.sampler import CopiesSampler, Sampler
from benchmarks.chaos.subject import Subject

READ_KEYS = 100  # of each shard
CLIENTS = 6


class Load:
    """Everything that writes, reads and watches.

    `crowd`: so many extra clients for each shard increment its waiter's key without a pause.
    """

    def __init__(  # noqa: PLR0913
        self,
        subject: Subject,
        prefix: str,
        seed: int,
        *,
        clients: int = CLIENTS,
        crowd: int = 0,
        epoch: Epoch | None = None,
    ) -> None:
        self.names = Names(prefix)
        self.epoch = epoch or Epoch()
        self.failures: list[str] = []
        self._subject, self._seed, self._prefix = subject, seed, prefix
        self._stop = threading.Event()
        board: deque[Favour] = deque()
        self.clients: list[Client] = []
        self.mixers = [Mixer(self._client(f"c{n}"), self.names, board) for n in range(clients)]
        self.pulse = Pulse(self._client("pulse"), f"{prefix}pulse")
        by_shard = self._keys_by_shard()
        self.waiters = [Waiter(self._client(f"waiter{shard}"), keys[0]) for shard, keys in enumerate(by_shard)]
        self.crowd = [
            Waiter(self._client(f"crowd{shard}-{n}"), keys[0], pause=0)
            for shard, keys in enumerate(by_shard)
            for n in range(crowd)
        ]
        self.readers = [
            Reader(subject.wire(), keys[1:], self.epoch, stream(seed, f"reader{n}")) for n, keys in enumerate(by_shard)
        ]
        self.sampler = Sampler(subject, self.accepted, self.read)
        self.copies = CopiesSampler(subject)
        self._threads: list[threading.Thread] = []

    def _client(self, name: str) -> Client:
        wire, rng = self._subject.wire(), stream(self._seed, name)
        client = Client(f"{self._prefix}{name}", wire, rng, spills=self._subject.spills)
        self.clients.append(client)
        return client

    def _keys_by_shard(self) -> list[list[str]]:
        """For each shard a key for its waiter, then hot shared keys for its reader."""
        found: list[list[str]] = [[] for _ in self._subject.shards]
        wire = self._subject.wire()
        for names in ([f"{self._prefix}waited-by:{n}" for n in range(64)], self.names.shared[:500]):
            query = "&".join(f"key={name}" for name in names)
            fresh: list[list[str]] = [[] for _ in found]
            for counter in wire.ask("GET", f"/v1/counters?{query}").json["results"]:
                fresh[counter["shard"]].append(counter["key"])
            for shard, keys in enumerate(fresh):
                found[shard] += keys[: 1 if not found[shard] else READ_KEYS]
        wire.close()
        return found

    @property
    def expected(self) -> list[ExpectedCounts]:
        """Of every client."""
        return [client.expected for client in self.clients]

    @property
    def waits(self) -> list[Successes]:
        """When results came, for each shard."""
        return [waiter.successes for waiter in self.waiters]

    @property
    def reads(self) -> list[Successes]:
        """When reads succeeded, for each shard."""
        return [reader.successes for reader in self.readers]

    def range(self) -> tuple[str, str]:
        """The first key of the run, and one behind all."""
        return self.names.prefix, self.names.prefix + "\x7f"

    def accepted(self) -> int:
        """Writes answered so far."""
        return sum(client.accepted for client in self.clients)

    def read(self) -> int:
        """Reads answered so far."""
        return sum(len(successes.times) for successes in self.reads)

    def start(self) -> None:
        """Start all threads."""
        runs: list[Callable[[threading.Event], None]] = [self.pulse.run, self.sampler.run, self.copies.run]
        runs += [one.run for some in (self.mixers, self.waiters, self.crowd, self.readers) for one in some]
        for run in runs:
            thread = threading.Thread(target=guarded(run, self._stop, self.failures), daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Stop every thread once its client's write is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS + 60)
        if any(thread.is_alive() for thread in self._threads):
            self.failures.append("a client did not come to an end")
