"""The supervisor: starts a plan in order of dependency, keeps it running, scales it, stops it in order.

A small one of our own, because neither supervisord nor circus nor honcho gives a start ordered by readiness, counts of
restarts, and the reaping of an orphaned process group together. One asyncio loop, one `Child` for each process.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from sharding import connection_budget

from . import ClusterError, leftovers, postgres, prepare, state, targets
from .child import Child
from .console import Console
from .front import LOOK_SECONDS as LOOK_SECONDS_OF_FRONT
from .front import Front
from .plan import Planner, Spec, stages
from .processes import create_time, known
from .steps import Steps
from .upgrade import Upgrade

LOOK_SECONDS = 0.3  # between two looks at the postmasters
ASK_EVERY = 14  # looks, after which Patroni is asked too, once all is ready and nothing changes
ROTATE_SECONDS = 5.0  # between two looks at the logs' sizes
GO_ON = (  # what is next after an upgrade that stopped
    "The cluster goes on. Put that right and run `cluster upgrade` again: it replaces the rest. Or run it in the tree of "
    "the code before: that goes back"
)


class Supervisor:
    """Runs one cluster from `run()` to the signal that ends it.

    `running`: rows of processes that run already. They are adopted, and replaced by those of the plan: all of them if
    `every`, or else those of another release.
    """

    def __init__(
        self, plan: Planner, console: Console, running: Sequence[Mapping[str, Any]] = (), *, every: bool = False
    ) -> None:
        self.plan = plan
        self.console = console
        self._running = running
        self._every = every
        self._replacing: Upgrade | None = None
        last = state.read(plan.directory)
        self.primaries = {int(shard): node for shard, node in last.primaries.items()}
        self.state = state.State(
            url=plan.layout.url,
            phase="starting",
            supervisor={"pid": os.getpid(), "create_time": create_time(os.getpid())},
        )
        self._dirty = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._rescale_asked = asyncio.Event()
        self.nodes = [self._node(shard, node) for shard, node in plan.layout.nodes]
        self.children = {spec.name: self._child(spec) for spec in plan.specs()}
        self.front = Front(self, console.event)

    def _node(self, shard: int, node: int) -> postgres.Node:
        ports = self.plan.layout.ports
        port, patroni_port = ports[f"postgres-{shard}-{node}"], ports[f"patroni-{shard}-{node}"]
        return postgres.Node(
            shard,
            node,
            self.plan.directory.node(shard, node),
            port=port,
            patroni_port=patroni_port,
            patroni_password=self.plan.secrets["patroni"],
        )

    def _child(self, spec: Spec) -> Child:
        return Child(spec, self.plan.directory.log(spec.name), self._dirty.set, self.console.event)

    async def run(self) -> None:
        """Start all, say `ready:`, stay until a signal, stop all. Raises `ClusterError` if the start fails."""
        self._handle_signals()
        chores = [
            asyncio.create_task(chore)
            for chore in (
                *(self._write_states(), self._look(), self._rescale_when_asked()),
                *(self._look_at_front(), self._rotate_logs()),
            )
        ]
        try:
            if await self._unless_stopped(self._upgrade() if self._running else self._start()):
                self._become("ready")
                self.console.ready(self.state.url or "", self._rows(), self._primary_names())
                await self._stop_asked.wait()
        except ClusterError as error:
            self.state.error = str(error)
            raise
        finally:
            self._become("stopping")
            await self._stop()
            for chore in chores:
                chore.cancel()
            await asyncio.gather(*chores, return_exceptions=True)
            self._become("stopped")
            self._write_state()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._asked_to_stop)
        loop.add_signal_handler(signal.SIGUSR1, self._rescale_asked.set)

    def _asked_to_stop(self) -> None:
        if self._stop_asked.is_set():
            self.console.event("killing everything at once")
            for child in self.children.values():
                child.kill()
            leftovers.kill_all(self.plan.directory)
        self._stop_asked.set()

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> bool:
        """Do the work unless a signal comes first. Returns whether it was done."""
        task, stop = asyncio.create_task(work), asyncio.create_task(self._stop_asked.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            return False
        task.result()
        return True

    async def _upgrade(self) -> None:
        """Adopt what runs, start what does not, and replace what is not of the plan. If that fails, the cluster runs
        on."""
        self._become("upgrading")
        try:
            await self._start()
            self._replacing = Upgrade(
                self.plan, self.children, self.nodes, self.console, front=self.front, every=self._every
            )
            await self._replacing.run()
            await self._retire()
        except Exception as error:  # whatever it is, the cluster goes on
            if not isinstance(error, ClusterError):
                self.console.event(traceback.format_exc())
            self.state.error = f"the upgrade stopped: {error}. {GO_ON}"
            self.console.event(self.state.error)

    async def _retire(self) -> None:
        """End what runs and is in no plan any more."""
        kept = {*self.children, *(node.name for node in self.nodes)}
        gone = [process for row in self._running if row["name"] not in kept and (process := known(row))]
        await asyncio.to_thread(leftovers.end, gone)

    async def _start(self) -> None:
        """Everything at once, each waiting for what it depends on; what runs already is adopted first."""
        adopted = {row["name"] for row in self._running if self._adopt(row)}
        steps = Steps(self.plan, self.nodes, self.primaries, self.console.event).all()
        done = {name: asyncio.Event() for name in (*self.children, *(step.name for step in steps))}

        async def one(name: str, after: tuple[str, ...], start: Callable[[], Awaitable[object]]) -> None:
            for other in after:
                await done[other].wait()
            began = time.monotonic()
            await start()
            done[name].set()
            self.console.progress(
                name, time.monotonic() - began, [n for n, event in done.items() if not event.is_set()]
            )

        self.console.begin(len(done) - len(adopted))
        try:
            async with asyncio.TaskGroup() as group:
                for name, child in self.children.items():
                    if name in adopted:
                        done[name].set()
                    else:
                        group.create_task(one(name, child.spec.after, child.start))
                for step in steps:
                    group.create_task(one(step.name, step.after, step.run))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            self.console.end()

    def _adopt(self, row: Mapping[str, Any]) -> bool:
        child = self.children.get(row["name"])
        return child is not None and child.adopt(row)

    async def _stop(self) -> None:
        self.console.event("stopping")
        roles = {name: child.spec.role for name, child in self.children.items()}
        primaries = {f"patroni-{node.shard}-{node.node}" for node in self.nodes if node.primary}
        for stage in stages(roles, primaries.__contains__):
            await asyncio.gather(*(self.children[name].stop() for name in stage))
        await asyncio.to_thread(leftovers.stop, self.plan.directory)
        for node in self.nodes:
            node.pid, node.state = None, "stopped"

    async def _rescale_when_asked(self) -> None:
        while True:
            await self._rescale_asked.wait()
            self._rescale_asked.clear()
            while self.state.phase in ("starting", "upgrading"):
                await asyncio.sleep(0.2)
            try:
                await self._rescale()
                self.state.error = None
            except (ClusterError, OSError, ValueError) as error:
                self.state.error = str(error)
                self.console.event(f"scale: {error}")
            self._dirty.set()

    async def _rescale(self) -> None:
        asked = json.loads(self.plan.directory["scale.json"].read_text())
        try:
            plan = prepare.rescaled(self.plan, asked["counts"])
            wanted = replace(plan.layout, balancing=asked.get("balancing") or plan.layout.balancing)
            self.plan = replace(plan, layout=wanted)
            await self._run_plan()
        finally:
            self.state.revision = asked["revision"]
        scale = ", ".join(f"{role}={count}" for role, count in self.plan.layout.scale.items())
        self.console.event(f"scaled: {scale}; balancing: {self.plan.layout.balancing}")

    async def _run_plan(self) -> None:
        """Start what is new in the plan, and end what is in it no more. Raises `ClusterError`."""
        wanted = {spec.name: spec for spec in self.plan.specs()}
        new = {name: self._child(spec) for name, spec in wanted.items() if name not in self.children}
        gone = [self.children[name] for name in self.children if name not in wanted]
        self.front.hold(new)
        self.children |= new
        try:
            await asyncio.gather(*(child.start() for child in new.values()))
        finally:
            self.front.release(new)
            try:
                await self.front.apply()
            finally:
                await asyncio.gather(*(child.stop() for child in gone))
                self.children = {name: self.children[name] for name in wanted}

    async def _look(self) -> None:
        """Keep the rows of PostgreSQL true, and remember who is primary."""
        changed = False
        for look in itertools.count():
            ask = changed or self.state.phase != "ready" or look % ASK_EVERY == 0
            asked = [node for node in self.nodes if node.look() or ask]
            changed = any(await asyncio.gather(*(node.ask() for node in asked))) if asked else False
            if changed:
                self._dirty.set()
            if self.state.phase in ("starting", "upgrading", "ready"):
                self.primaries |= {node.shard: node.node for node in self.nodes if node.primary}
            await asyncio.sleep(LOOK_SECONDS)

    async def _look_at_front(self) -> None:
        while True:
            if self.state.phase in ("upgrading", "ready"):
                await self.front.look()
                if msgspec.to_builtins(self.front.state) != self.state.front:
                    self._dirty.set()
            await asyncio.sleep(LOOK_SECONDS_OF_FRONT)

    async def _rotate_logs(self) -> None:
        while True:
            with contextlib.suppress(OSError):  # such as a full disk
                await asyncio.to_thread(prepare.rotate_all, self.plan.directory)
            await asyncio.sleep(ROTATE_SECONDS)

    def _become(self, phase: str) -> None:
        self.state.phase = phase
        self._dirty.set()

    def _primary_names(self) -> set[str]:
        return {node.name for node in self.nodes if node.primary}

    def _rows(self) -> list[dict[str, object]]:
        rows: list[dict[str, object]] = [
            {
                "name": child.spec.name,
                "role": child.spec.role,
                "shard": child.spec.shard,
                "pid": child.pid,
                "port": child.spec.port,
                "metrics_port": child.spec.metrics_port,
                "state": child.state,
                "restarts": child.restarts,
                "create_time": child.create_time,
                "release": child.release,
            }
            for child in self.children.values()
        ]
        place = 1 + max(index for index, row in enumerate(rows) if row["role"] == "patroni")
        return rows[:place] + [_row(node) for node in self.nodes] + rows[place:]

    async def _write_states(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            self._write_state()
            await asyncio.sleep(0.05)

    def _write_state(self) -> None:
        self.state.processes = self._rows()
        if self._replacing is not None:
            self.state.supervisor |= {"total": self._replacing.total, "left": self._replacing.left}
        budget = connection_budget.worst(prepare.fleet(self.plan.layout, self.plan.environment))
        self.state.supervisor |= {
            "connections": {"shard": budget.shard, "most": budget.most, "limit": budget.limit},
            "front": msgspec.to_builtins(self.front.state),
        }
        self.state.primaries = {str(shard): node for shard, node in self.primaries.items()}
        with contextlib.suppress(OSError):
            state.write(self.plan.directory, self.state)
            targets.write(self.plan.directory, self.state.processes)


def _row(node: postgres.Node) -> dict[str, object]:
    return {
        "name": node.name,
        "role": "postgres",
        "shard": node.shard,
        "pid": node.pid,
        "port": node.port,
        "metrics_port": None,
        "state": node.state,
        "restarts": node.restarts,
        "create_time": node.create_time,
        "streaming": node.streaming,
    }
