"""nginx before the API processes: its strategy, and which of them get no requests now.

Open-source nginx only notices that a process fails when a request has failed. So the supervisor asks each process every
second whether it can serve (`/readyz`). One that twice cannot is *sick*: nginx is told to leave it out, until it has given
two good answers. So is one that starts or is about to end (*held*).

A change is a reload: nginx starts new workers, and the old ones finish what they have. No request is lost by it.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, Protocol

import msgspec

from runtime import balancing
from runtime.balancing import State

from . import ClusterError, configs, layout, prepare, probes, redis, sentinels
from .child import Child, said
from .plan import Planner
from .processes import children_of

LOOK_SECONDS = 1.0  # between two questions
SICK, HELD = "sick", "starting or ending"
IN_A_ROW = 2  # answers that make a process sick, or well
RELOAD_SECONDS = 30.0  # for nginx to have new workers
_PAUSE_SECONDS = 0.05


class Health:
    """Whether a process is sick, by its last answers."""

    def __init__(self) -> None:
        self.is_sick = False
        self._against = 0  # answers in a row that say otherwise

    def note(self, is_well: bool) -> None:
        self._against = self._against + 1 if is_well == self.is_sick else 0
        if self._against == IN_A_ROW:
            self.is_sick, self._against = not self.is_sick, 0


def left_out(every: Collection[str], sick: Collection[str], held: Collection[str]) -> dict[str, str]:
    """Which processes get no requests, and why. Where nobody would be left, the sick ones serve: what ails all of them
    (the journal is down) is no reason to refuse reads. Then those that are held serve, too."""
    gone = {name: HELD for name in every if name in held}
    ill = {name: SICK for name in every if name in sick and name not in gone}
    for found in (ill | gone, gone):
        if len(found) < len(every):
            return found
    return {}


class Running(Protocol):
    """What the supervisor runs; it replaces both."""

    plan: Planner
    children: dict[str, Child]


class Front:
    """nginx of one cluster."""

    def __init__(self, running: Running, say: Callable[[str], None]) -> None:
        self._running, self._say = running, say
        self._health: dict[str, Health] = {}
        self._held: set[str] = set()
        self._in_force = self.state
        self._changing = asyncio.Lock()
        self._redis: Any = None

    @property
    def state(self) -> State:
        """What is to be in force."""
        wanted = self._running.plan.layout
        every = [f"api-{number}" for number in range(1, wanted.scale["api"] + 1)]
        sick = {name for name, health in self._health.items() if health.is_sick}
        out = left_out(every, sick, self._held)
        return State(wanted.balancing, [name for name in every if name not in out], out)

    async def look(self) -> None:
        """Ask the processes whether they can serve, and follow what the operators order."""
        await asyncio.gather(self._check(), self._follow())

    async def apply(self) -> None:
        """Bring the strategy and the processes of the plan into force, and remember them. Returns when no request goes to a
        process that is left out. Raises `ClusterError`."""
        async with self._changing:
            plan, state = self._running.plan, self.state
            nginx = self._running.children["nginx"]
            prepare.write_nginx(plan, left_out=state.left_out)
            before = await reload(nginx)
            layout.save(plan.directory, plan.layout)
            gone = set(self._in_force.serving) - set(state.serving)
            self._in_force = state
        if gone:  # after that the workers of before only finish requests that they have
            await _until(lambda: not before & _workers(nginx), configs.KEEP_CLIENTS_SECONDS + 0.5)

    def hold(self, names: Iterable[str]) -> None:
        """Send these processes no requests, from the next `apply` on."""
        self._held |= set(names)

    def release(self, names: Iterable[str]) -> None:
        """Send these processes, which are ready, requests again, from the next `apply` on."""
        for name in names:
            self._held.discard(name)
            self._health.pop(name, None)

    async def _check(self) -> None:
        """Ask every process."""
        apis = {name: child for name, child in self._running.children.items() if child.spec.role == "api"}
        for name in self._health.keys() - apis.keys():
            del self._health[name]
        await asyncio.gather(*(self._ask(name, child) for name, child in apis.items()))
        before, now = self._in_force, self.state
        if before.serving != now.serving and await self._is_applied():
            self._say(_told(before, now))

    async def _ask(self, name: str, child: Child) -> None:
        ready = await probes.Answers(child.spec.port or 0, "/readyz", 200).check()
        self._health.setdefault(name, Health()).note(ready)

    async def _is_applied(self) -> bool:
        """Try to apply what is to be in force. If that fails, the next look tries again."""
        try:
            await self.apply()
        except (ClusterError, OSError) as error:
            self._say(f"nginx: {error}")
            return False
        return True

    async def _follow(self) -> None:
        """Say what is in force, and take an order."""
        try:
            asked = await asyncio.to_thread(self._exchange)
        except (redis.errors(), OSError):
            self._redis = None
            return
        plan = self._running.plan
        if asked in balancing.STRATEGIES and asked != plan.layout.balancing:
            self._running.plan = replace(plan, layout=replace(plan.layout, balancing=asked))
        if self._in_force.strategy != self._running.plan.layout.balancing and await self._is_applied():
            self._say(f"nginx: {self._in_force.strategy}")

    def _exchange(self) -> str | None:
        """Raises `RedisError`."""
        if self._redis is None:
            plan = self._running.plan
            port = sentinels.journal_port(plan.layout, plan.secrets)
            if port is None:
                return None
            self._redis = redis.client(port, plan.secrets["redis-journal"])
        with self._redis.pipeline(transaction=False) as pipe:
            stopped = [name for name, child in self._running.children.items() if child.state != "running"]
            apis = [name for name in stopped if name in (*self._in_force.serving, *self._in_force.left_out)]
            now = msgspec.structs.replace(self._in_force, runs="nginx" not in stopped, stopped=apis)
            pipe.set(balancing.STATE, balancing.encoded(now), ex=balancing.STATE_SECONDS)
            pipe.getdel(balancing.ORDER)
            _, asked = pipe.execute()
        found: str | None = asked
        return found


def _told(before: State, now: State) -> str:
    changed = [f"{name} is left out: {why}" for name, why in now.left_out.items() if before.left_out.get(name) != why]
    back = [f"{name} is back" for name in now.serving if name in before.left_out]
    return f"nginx: {', '.join([*changed, *back]) or 'other processes'}"


async def reload(nginx: Child) -> set[int]:
    """Have nginx take up its configuration, without a moment in which nobody listens. Returns the pids of the workers of
    before. Raises `ClusterError`."""
    await _until(lambda: nginx.pid is None or nginx.state == "running", RELOAD_SECONDS)
    if nginx.pid is None:  # it reads it when it starts
        return set()
    tried = await asyncio.to_thread(
        subprocess.run, [*nginx.spec.argv, "-t"], capture_output=True, text=True, check=False
    )
    if tried.returncode:
        raise ClusterError(f"nginx refuses its configuration: {tried.stderr.strip().splitlines()[0]}")
    before = _workers(nginx)
    nginx.signal(signal.SIGHUP)
    if not await _until(lambda: bool(_workers(nginx) - before), RELOAD_SECONDS):
        raise ClusterError(f"nginx does not reload; {said(nginx.log)}")
    return before


def _workers(nginx: Child) -> set[int]:
    return set() if nginx.pid is None else children_of(nginx.pid)


async def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_PAUSE_SECONDS)
    return True
