"""An import: submits chunks under idempotency claims and collects their outcomes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from counters import service
from counters.imports.lines import Chunk
from counters.intake import idempotency, writes
from counters.intake.admission import Limited
from counters.intake.journal import JournalUnavailable
from counters.reading import write_status
from counters.write_id import WriteId
from runtime import polling
from sharding.databases import ShardUnavailable
from sharding.topology import NoTopology

PATIENCE_SECONDS = 60.0
IN_FLIGHT = 64  # chunks accepted but not known to be applied: bounds the journal's size


class Stopped(Exception):
    """An import cannot continue; the text says why."""


@dataclass(slots=True, kw_only=True)
class Import:
    """An import, identified by name and prefix, and its totals so far. `on_rejected` gets a text for each sum that
    could not be applied."""

    name: str
    prefix: str
    wait: bool
    on_rejected: Callable[[str], None]
    increments: int = 0
    keys: int = 0
    chunks: int = 0
    repeated: int = 0
    skipped: int = 0
    rejected: int = 0
    _unapplied: deque[tuple[Chunk, writes.Accepted]] = field(default_factory=deque)

    def take(self, chunk: Chunk) -> None:
        """Submit a chunk. Raises `Stopped`."""
        if chunk.folded:
            self.keys += len(chunk.folded)
            parts = self._submit(chunk)
            self.repeated += parts[0].repeated
            chunk.folded = {}
            if self.wait:
                self._unapplied += [(chunk, accepted) for accepted in parts]
        self.chunks += 1
        self.increments += chunk.increments
        self.skipped += chunk.skipped
        self._wait_for(IN_FLIGHT)

    def finish(self) -> None:
        """Wait until all chunks are applied (if `wait`). Raises `Stopped` if a chunk takes more than a minute."""
        self._wait_for(0)

    def _submit(self, chunk: Chunk) -> list[writes.Accepted]:
        """Submit a chunk, and again the keys that a full lane has refused; these under a claim of their own, as the record of
        the first tells which they are."""
        folded, name = chunk.folded, f"{self.name}\0{self.prefix}\0{chunk.number}"
        parts = [self._submit_part(chunk, folded, name)]
        while refused := parts[-1].shed.refused:
            folded = {key: folded[key] for keys in refused.values() for key in keys}
            parts.append(self._submit_part(chunk, folded, f"{name}\0{len(parts)}"))
        return parts

    def _submit_part(self, chunk: Chunk, folded: dict[str, int], name: str) -> writes.Accepted:
        """Retry for a minute while the journal or a shard is down, or a lane is full: the claim makes that safe."""
        claim = idempotency.claim("manage.py ingest", name, "INGEST", "", chunk.digest)
        tried = False
        failure: Exception
        for _ in polling.attempts(PATIENCE_SECONDS, pause=0.25, grow=2, most=5.0):
            try:
                accepted = service.current().submit(writes.increments(folded, claim))
                return writes.Accepted(accepted.id, accepted.shed, repeated=accepted.repeated and not tried)
            except idempotency.Mismatch:
                text = "an import of this name and prefix had other data here. Give the same data and --chunk as then, or another --name"
                raise Stopped(f"lines {chunk.first_line} to {chunk.last_line}: {text}.") from None
            except Limited as error:  # nothing of it was accepted: there will be room
                failure = error
            except (JournalUnavailable, ShardUnavailable, NoTopology) as error:
                failure, tried = error, True
        text = f"lines {chunk.first_line} to {chunk.last_line} could not be written for a minute"
        raise Stopped(f"{text}: {failure}.") from failure

    def _wait_for(self, most_in_flight: int) -> None:
        while len(self._unapplied) > most_in_flight:
            chunk, accepted = self._unapplied[0]
            found = _applied(chunk, accepted.id, repeated=accepted.repeated)
            for one in found.outcomes if found else []:
                if one.status == "rejected":
                    self.rejected += 1
                    self.on_rejected(
                        f"rejected: {one.key} (lines {chunk.first_line} to {chunk.last_line}): {one.reason}"
                    )
            self._unapplied.popleft()


def _applied(chunk: Chunk, write: WriteId, *, repeated: bool) -> write_status.WriteStatus | None:
    """The status of an applied chunk; None for a repeat of a chunk whose outcome is no longer kept. Raises
    `Stopped`."""
    reason = "its shard has not applied it"
    for _ in polling.attempts(PATIENCE_SECONDS, pause=0.005, grow=2, most=0.5):
        try:
            found = write_status.find(write)
            if (found and found.status in {"applied", "rejected"}) or (found is None and repeated):
                return found
        except (ShardUnavailable, JournalUnavailable) as error:
            reason = str(error)
    text = f"lines {chunk.first_line} to {chunk.last_line} are accepted and safe (write {write}), but not applied within a minute"
    raise Stopped(f"{text}: {reason}. They will be applied without this command.")
