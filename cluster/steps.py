"""The steps between processes when the cluster starts: a primary, its databases, one-shot Django commands.

A step is a coroutine with a name and the names of what must be ready before it; the supervisor runs them as it starts
processes. Each raises `ClusterError` with the log to read when it cannot be done.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sharding.roles import ROLES

from . import ClusterError, configs, probes, sentinels
from .child import said, size
from .layout import PROJECT, write_private
from .plan import Planner
from .postgres import Node, provide
from .prepare import schema
from .processes import kill_group
from .redis import LOCAL

TURN_SECONDS = 6.0  # that the other nodes of a shard wait for the one that was its primary
PRIMARY_SECONDS = 120.0  # to have a primary; crash recovery is part of it
FAILED_SECONDS = 20.0  # without a single postmaster, or of failed starts alone, after which a shard is given up
ASK_SECONDS = 5.0  # for one answer of Patroni
SETTINGS_SECONDS = 30.0  # for Patroni to take its settings; the cluster is ready with the old ones after that
REPLICA_SECONDS = 60.0  # to have all replicas following; the cluster is ready without them after that
COMMAND_SECONDS = 180.0


@dataclass(frozen=True)
class Step:
    """Something done once."""

    name: str
    after: tuple[str, ...]
    run: Callable[[], Awaitable[object]]


class Steps:
    """The steps of one plan. The supervisor keeps `nodes` up to date; `primaries` is shard → last known primary."""

    def __init__(
        self, plan: Planner, nodes: list[Node], primaries: Mapping[int, int], say: Callable[[str], None]
    ) -> None:
        self.plan, self.nodes, self.primaries, self.say = plan, nodes, primaries, say
        self._written_before = {log: size(log) for log in plan.directory.logs.glob("p*.log")}

    def all(self) -> list[Step]:
        shards = range(self.plan.layout.shards)
        steps = [Step(f"turn-{s}-{k}", ("etcd",), self._turn(s, k)) for s, k in self.plan.layout.nodes]
        steps += [Step(f"databases-{s}", ("etcd",), self._databases(s)) for s in shards]
        steps += [Step(f"settings-{s}", (f"databases-{s}",), self._settings(s)) for s in shards]
        if self.plan.layout.replicas:
            steps += [Step(f"replicas-{s}", (f"databases-{s}",), self._replicas(s)) for s in shards]
        if self.plan.layout.journal_replicas:
            steps.append(Step("journal-replicas", tuple(self.plan.layout.journals), self._journal_replicas))
        before = (*(f"databases-{s}" for s in shards), *self.plan.layout.journals, "redis-cache")
        steps.append(Step("set-up", before, self._set_up))
        if self.plan.quorum is not None:
            following = (f"replicas-{s}" for s in shards) if self.plan.layout.replicas else ()
            steps.append(Step("quorum", ("set-up", *following), self._quorum))
        front = tuple(f"api-{i}" for i in range(1, self.plan.layout.scale["api"] + 1))
        steps.append(Step("front", ("nginx", *front), self._front))
        return steps

    def _of(self, shard: int) -> list[Node]:
        return [node for node in self.nodes if node.shard == shard]

    def _primary(self, shard: int) -> Node | None:
        return next((node for node in self._of(shard) if node.primary and node.state == "running"), None)

    def _turn(self, shard: int, number: int) -> Callable[[], Awaitable[None]]:
        """Start the last primary first. Otherwise a replica that lacks its last commits might be promoted."""

        async def run() -> None:
            if number != self.primaries.get(shard, 1):
                await _until(lambda: self._primary(shard) is not None, TURN_SECONDS)

        return run

    def _databases(self, shard: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            import psycopg

            secrets = self.plan.secrets
            passwords = {role: secrets[role] for role in (configs.ROLE, *ROLES)}
            deadline = time.monotonic() + PRIMARY_SECONDS
            while True:
                primary = await self._wait_for_primary(shard, deadline)
                try:
                    await provide(primary.port, secrets["postgres"], passwords, control=shard == 0)
                except psycopg.Error as error:
                    if time.monotonic() > deadline or "password authentication" in str(error):
                        raise ClusterError(f"the databases of shard {shard} cannot be made: {error}") from error
                    await asyncio.sleep(0.5)
                else:
                    return

        return run

    def _settings(self, shard: int) -> Callable[[], Awaitable[None]]:
        """Give Patroni this version's shared settings and rules of log-in: a cluster that was made by an older one has
        others."""

        async def run() -> None:
            for node in self._of(shard):
                await self._let_in(node)
            deadline = time.monotonic() + SETTINGS_SECONDS
            while not await asyncio.to_thread(self._write_settings, self._of(shard)[0]):
                if time.monotonic() > deadline:
                    self.say(
                        f"warning: Patroni of shard {shard} does not take its shared settings; they stay as they were"
                    )
                    return
                await asyncio.sleep(0.5)

        return run

    async def _let_in(self, node: Node) -> None:
        """Wait until a server that runs has the rules of its patroni.yml for the roles of the processes."""
        import psycopg

        role, deadline = ROLES[-1], time.monotonic() + SETTINGS_SECONDS
        login = psycopg.conninfo.make_conninfo(
            host=LOCAL,
            port=node.port,
            user=role,
            password=self.plan.secrets[role],
            dbname=configs.DATABASE,
            connect_timeout=5,
        )
        while time.monotonic() < deadline:
            try:
                await (await psycopg.AsyncConnection.connect(login)).close()
            except psycopg.OperationalError as error:
                if "pg_hba.conf" not in str(error):
                    return  # it does not run yet, and will start with them
            else:
                return
            await asyncio.to_thread(node.tell_patroni, "POST", "/reload", {}, ASK_SECONDS)
            await asyncio.sleep(0.5)
        self.say(f"warning: {node.name} does not let {role} in; see {self.plan.directory.log(node.name)}")

    @staticmethod
    def _write_settings(node: Node) -> bool:
        return node.tell_patroni("PATCH", "/config", configs.shared_settings(), ASK_SECONDS)[0] == 200

    async def _wait_for_primary(self, shard: int, deadline: float) -> Node:
        failing_since: float | None = None
        while (primary := self._primary(shard)) is None:
            now = time.monotonic()
            failing = all(node.failing for node in self._of(shard))
            failing_since = (failing_since or now) if failing else None
            if now > deadline or (failing_since and now - failing_since > FAILED_SECONDS):
                raise ClusterError(self._no_primary(shard))
            await asyncio.sleep(0.1)
        return primary

    def _no_primary(self, shard: int) -> str:
        first = next(node for node in self._of(shard) if node.node == self.primaries.get(shard, 1))
        logs = [self.plan.directory.log(f"{kind}-{shard}-{first.node}") for kind in ("postgres", "patroni")]
        log = next((log for log in logs if "FATAL" in self._said(log) or "PANIC" in self._said(log)), logs[-1])
        return (
            f"shard {shard} has no primary: PostgreSQL does not start in {first.data}; {self._said(log)}. Put that "
            "directory right (or, where a replica has the data, remove it: it is copied anew), or `cluster destroy` all"
        )

    def _said(self, log: Path) -> str:
        return said(log, self._written_before.get(log, 0))

    def _replicas(self, shard: int) -> Callable[[], Awaitable[None]]:
        async def run() -> None:
            if not await _until(lambda: all(node.serving for node in self._of(shard)), REPLICA_SECONDS):
                late = [node for node in self._of(shard) if not node.serving]
                log = self.plan.directory.log(f"patroni-{shard}-{late[0].node}") if late else self.plan.directory.logs
                self.say(f"warning: a replica of shard {shard} does not follow yet; {said(log)}")

        return run

    async def _journal_replicas(self) -> None:
        """Wait until the journal can fail over."""
        deadline = time.monotonic() + REPLICA_SECONDS
        while not await asyncio.to_thread(sentinels.all_follow, self.plan.layout, self.plan.secrets):
            if time.monotonic() > deadline:
                log = said(self.plan.directory.log(self.plan.layout.journals[-1]))
                self.say(f"warning: a replica of the journal does not follow yet; {log}")
                return
            await asyncio.sleep(0.2)

    async def _front(self) -> None:
        """Wait up to 15 s until nginx answers `/readyz` with 200. If it does not, that only warns; the start does not fail."""
        ready = probes.Answers(self.plan.layout.ports["nginx"], "/readyz", 200)
        deadline = time.monotonic() + 15
        while not await ready.check():
            if time.monotonic() > deadline:
                self.say(f"warning: {self.plan.layout.url}/readyz does not answer 200 yet")
                return
            await asyncio.sleep(0.1)

    async def _set_up(self) -> None:
        """One command does all of it: loading Django costs a second of processor time."""
        from .restore import RESTORED

        mark, digest, key = self.plan.directory["migrated"], schema(PROJECT), self.plan.directory["api-key"]
        mark.unlink(missing_ok=True)
        said = await self._manage("set_up", *(() if key.exists() else ("--key", "local-cluster")))
        if not key.exists():
            write_private(key, said.split()[-1] + "\n")
        if (restored := self.plan.directory[RESTORED]).exists():
            await self._manage("after_restore")
            restored.unlink()
        write_private(mark, digest)

    async def _quorum(self) -> None:
        """Set the write quorum. Where it is not in force yet, as too few replicas follow, that only warns."""
        number = str(self.plan.quorum)
        said = await self._manage("quorum", number, "--reason", f"cluster up --quorum {number}")
        for line in said.splitlines():
            if "not in force" in line:
                self.say(f"warning: {line}")

    async def _manage(self, command: str, *arguments: str) -> str:
        """Run `manage.py COMMAND …` with this cluster's settings: its stdout. stderr goes to `<command>.log`."""
        log = self.plan.directory.log(command)
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, str(PROJECT / "manage.py"), command, *arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=self.plan.environment,
                cwd=PROJECT,
                start_new_session=True,
            )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), COMMAND_SECONDS)
        except TimeoutError as error:
            raise ClusterError(f"manage.py {command} is not done after {COMMAND_SECONDS:.0f} s; {said(log)}") from error
        finally:
            if process.returncode is None:
                kill_group(process.pid)
        if process.returncode != 0:
            raise ClusterError(f"manage.py {command} failed (exit {process.returncode}); {said(log)}")
        return output.decode()


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.1)
    return True
