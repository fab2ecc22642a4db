"""Replaces the processes of a running cluster by those of a plan, one after the other, while clients write and read.

The invariant: nothing is taken away before all is there. Before each step every process runs and every PostgreSQL server
takes writes or follows, and a primary becomes a replica before it is replaced. A step that does not get there ends the
upgrade. What was replaced stays so, and the cluster goes on: the next upgrade replaces the rest.

Workers come first, then the API processes, whose batches they read: so what only the new version writes is not met by
old workers, and old API processes go on writing what every worker reads. Then comes what both use. After a return, old
workers may meet what the new version has written: docs/contributing.md has the rule for that.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import psutil

from . import ClusterError, front, probes, sentinels
from .child import Child, said
from .console import Console
from .front import Front
from .plan import Planner
from .postgres import Node

ORDER = (
    *("worker", "spill-worker", "api", "beat", "flower", "disks", "nginx", "patroni"),
    *("redis-cache", "redis-broker", "sentinel", "redis-journal", "journal-archive", "etcd", "prometheus", "grafana"),
)
WHOLE_SECONDS = 120.0  # for everything to be there, before a step and after it
LOOK_SECONDS = 0.1
SWITCH_SECONDS = 60.0  # for Patroni's answer to a switchover


def in_order(roles: Mapping[str, str]) -> list[str]:
    """The names of all processes in the order of their replacement, from name → role."""
    return [name for role in ORDER for name, its_role in roles.items() if its_role == role]


class Upgrade:
    """One upgrade. The supervisor keeps `nodes` up to date.

    `every`: replace what runs the plan's release already, too. nginx is only told to read its configuration if its
    program is the same.
    """

    def __init__(  # noqa: PLR0913 - what the supervisor has
        self,
        plan: Planner,
        children: Mapping[str, Child],
        nodes: Sequence[Node],
        console: Console,
        *,
        front: Front,
        every: bool,
    ) -> None:
        self.plan, self.children, self.nodes, self.console = plan, children, nodes, console
        self.front, self.every = front, every
        names = in_order({name: child.spec.role for name, child in children.items()})
        self.left = [name for name in names if every or name == "nginx" or self._is_stale(name)]
        self.total = len(self.left)

    def _is_stale(self, name: str) -> bool:
        """Whether it was started with something else, or its PostgreSQL before it."""
        child = self.children[name]
        older = [node for node in self._nodes_of(name) if (node.create_time or 0) < (child.create_time or 0)]
        return child.release != child.spec.release or bool(older)

    def _nodes_of(self, patroni: str) -> list[Node]:
        return [node for node in self.nodes if f"patroni-{node.shard}-{node.node}" == patroni]

    async def run(self) -> None:
        """Replace them all. Raises `ClusterError`."""
        self.console.begin(self.total, "upgrading")
        try:
            while self.left:
                began = time.monotonic()
                name = await self._choose()
                await self._until_whole(but=name)
                await self._replace(name)
                self.left.remove(name)
                self.console.progress(name, time.monotonic() - began, self.left)
            await self._until_whole()
            await self._until(self._is_healthy, "a component is down: `GET /health` names it")
        finally:
            self.console.end()

    async def _choose(self) -> str:
        """The first that is left, or one of its kind that is to go before it: what is down, then replicas, then the
        primary."""
        first = self.children[self.left[0]].spec
        kind = [
            name
            for name in self.left
            if (spec := self.children[name].spec).role == first.role and spec.shard == first.shard
        ]
        if first.role == "patroni":
            nodes = {name: node for name in kind for node in self._nodes_of(name)}
            return min(nodes, key=lambda name: (nodes[name].serving, nodes[name].primary))
        if first.role == "redis-journal":
            primary = await self._journal_primary()
            return min(kind, key=lambda name: name == primary)
        return kind[0]

    async def _replace(self, name: str) -> None:
        child = self.children[name]
        match child.spec.role:
            case "patroni":
                await self._replace_node(child, *self._nodes_of(name))
            case "redis-journal" if self.plan.layout.journal_replicas:
                await self._replace_journal(child)
            case "nginx" if not self.every and _is_same(child):
                await front.reload(child)
                child.renewed()
            case "api":
                await self._replace_api(child)
            case _:
                await child.restart()

    async def _replace_api(self, child: Child) -> None:
        """It gets no requests meanwhile, if there is another one. An nginx of another program may not take this
        configuration: then it tries the requests with the others."""
        name = child.spec.name
        held = [name] if _is_same(self.children["nginx"]) else []
        self.front.hold(held)
        try:
            if held:
                await self.front.apply()
            await child.restart()
            ready = probes.Answers(child.spec.port or 0, "/readyz", 200)
            await self._until(ready.check, f"{name} is not ready: its /readyz says why; {said(child.log)}")
        finally:
            self.front.release(held)
        if held:
            await self.front.apply()

    async def _replace_node(self, child: Child, node: Node) -> None:
        """A Patroni and its PostgreSQL: a replica's, or the primary's once a replica has taken over."""
        if node.primary and self.plan.layout.replicas:
            await self._switch_over(node)
        before, log = node.pid, self.plan.directory.log(node.name)
        await child.restart()
        await self._until(lambda: _done(node.serving and node.pid != before), f"{node.name} is not back; see {log}")

    async def _switch_over(self, primary: Node) -> None:
        body = {"leader": f"shard-{primary.shard}-node-{primary.node}"}
        deadline = time.monotonic() + WHOLE_SECONDS
        while primary.primary:  # Patroni refuses while the replicas lag, or do not answer it in time
            status, text = await asyncio.to_thread(primary.tell_patroni, "POST", "/switchover", body, SWITCH_SECONDS)
            if status == 200:
                self.console.event(text)
                break
            if time.monotonic() > deadline:
                raise ClusterError(f"no replica of shard {primary.shard} takes over from {primary.name}: {text}")
            await asyncio.sleep(1)
        shard = [node for node in self.nodes if node.shard == primary.shard]
        await self._until(
            lambda: _done(not primary.primary and all(node.serving for node in shard)),
            f"{primary.name} does not follow the new primary; see {self.plan.directory.log(primary.name)}",
        )

    async def _replace_journal(self, child: Child) -> None:
        """A server of the journal: a replica, or the primary once the Sentinels have promoted another."""
        name, late = child.spec.name, "a server of the journal does not follow its primary; see their logs"
        if await self._journal_primary() == name:
            await self._until(self._journal_has_copies, late)
            await self._until(self._fails_over, "the Sentinels do not promote a replica of the journal")
            await self._until(self._journal_has_copies, late)
        await child.restart()
        await self._until(self._journal_has_copies, late)

    async def _journal_primary(self) -> str | None:
        """The name of the journal's primary, where it has replicas and the Sentinels agree."""
        layout = self.plan.layout
        port = await asyncio.to_thread(sentinels.primary, layout, self.plan.secrets["sentinel"])
        return next((name for name in layout.journals if layout.ports[name] == port), None)

    async def _fails_over(self) -> bool:
        return await asyncio.to_thread(sentinels.fail_over, self.plan.layout, self.plan.secrets["sentinel"])

    async def _journal_has_copies(self) -> bool:
        return await asyncio.to_thread(sentinels.all_follow, self.plan.layout, self.plan.secrets)

    async def _is_healthy(self) -> bool:
        _, body = await probes.get(self.plan.layout.ports["nginx"], "/health")
        try:
            return bool(json.loads(body)["status"] == "ok")
        except (ValueError, KeyError, TypeError):
            return False

    async def _until_whole(self, but: str = "") -> None:
        """Wait until every process runs and every PostgreSQL server does its part, but for the one that is replaced."""
        spared = self._nodes_of(but)

        def missing() -> str:
            for name, child in self.children.items():
                if child.state != "running" and name != but:
                    return f"{name} does not stay up; {said(child.log)}"
            late = next((node for node in self.nodes if not node.serving and node not in spared), None)
            return f"{late.name} does not follow; see {self.plan.directory.log(late.name)}" if late else ""

        try:
            await self._until(lambda: _done(not missing()), "")
        except ClusterError:
            raise ClusterError(missing()) from None

    async def _until(self, condition: Callable[[], Awaitable[bool]], otherwise: str) -> None:
        deadline = time.monotonic() + WHOLE_SECONDS
        while not await condition():
            if time.monotonic() > deadline:
                raise ClusterError(otherwise)
            await asyncio.sleep(LOOK_SECONDS)


async def _done(value: bool) -> bool:
    return value


def _is_same(child: Child) -> bool:
    """Whether it runs, and its program is the file that the process was started from, and has not changed since."""
    if child.pid is None:
        return False
    program = Path(child.spec.argv[0])
    try:
        process = psutil.Process(child.pid)
        return program.samefile(process.exe()) and program.stat().st_ctime <= process.create_time()
    except (psutil.Error, OSError):
        return False
