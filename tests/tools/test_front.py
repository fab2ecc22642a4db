"""Whom nginx leaves out: the rules, and the supervisor's questions to servers that answer, fail or hang."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import configs, layout, plan, prepare
from cluster.child import Child
from cluster.front import HELD, IN_A_ROW, SICK, Front, Health, left_out
from cluster.layout import Directory, Layout
from cluster.programs import Programs
from runtime.balancing import LEAST_CONN, ROUND_ROBIN

SECRETS = {name: f"secret-of-{name}" for name in layout.SECRET_NAMES}
PROGRAMS = Programs(Path("/p/etcd"), Path("/p/redis-server"), Path("/p/nginx"), Path("/p/pg/bin"), False, ())
NAMES = [f"api-{n}" for n in range(1, 5)]
some = st.sets(st.sampled_from(NAMES))


def test_one_bad_answer_takes_no_process_out_and_one_good_one_brings_none_back() -> None:
    health = Health()
    seen = []
    for is_well in (True, False, True, False, False, True, False, True, True):
        health.note(is_well)
        seen.append(health.is_sick)
    assert IN_A_ROW == 2
    assert seen == [False, False, False, False, True, True, True, True, False]


def test_who_is_left_out() -> None:
    assert left_out(NAMES, {"api-2"}, {"api-3"}) == {"api-2": SICK, "api-3": HELD}
    assert left_out(["api-1"], {"api-1"}, set()) == {}
    assert left_out(["api-1", "api-2"], {"api-1", "api-2"}, set()) == {}
    assert left_out(["api-1", "api-2"], {"api-1"}, {"api-2"}) == {"api-2": HELD}, "rather a sick one than none"
    assert left_out(["api-1"], set(), {"api-1"}) == {}


@given(every=st.lists(st.sampled_from(NAMES), min_size=1, unique=True), sick=some, held=some)
def test_somebody_always_serves(every: list[str], sick: Collection[str], held: Collection[str]) -> None:
    found = left_out(every, sick, held)
    assert len(found) < len(every)
    assert found.keys() <= {*sick, *held} & set(every)


def planned(tmp_path: Path, ports: dict[str, int]) -> plan.Planner:
    """A plan with these ports of API processes."""
    directory = Directory(tmp_path)
    directory.prepare()
    wanted = Layout(scale={"api": len(ports), "worker": 1, "spill-worker": 1})
    chosen = layout.choose_ports([*layout.port_names(wanted), "nginx"], {}, lambda _: True, 20000)
    wanted = replace(wanted, ports=chosen | ports)
    environment = configs.environment(wanted, directory, SECRETS)
    return plan.Planner(wanted, directory, PROGRAMS, SECRETS, {}, environment)


@dataclass
class Running:
    """What a supervisor runs; no process is started."""

    plan: plan.Planner
    children: dict[str, Child]


def running(planner: plan.Planner) -> Running:
    found = [spec for spec in planner.specs() if spec.role in {"api", "nginx"}]
    children = {spec.name: Child(spec, planner.directory.log(spec.name), lambda: None, print) for spec in found}
    return Running(planner, children)


def says(status: int) -> Callable[..., Awaitable[None]]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n")).startswith(b"GET /readyz ")
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        await writer.drain()
        writer.close()

    return answer


async def hangs(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)
    writer.close()


def test_a_process_that_fails_or_hangs_is_left_out_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.probes.TIMEOUT_SECONDS", 0.3)
    asyncio.run(_looks(tmp_path))


async def _looks(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {"api-1": says(200), "api-2": says(503), "api-3": says(500), "api-4": hangs}
    async with AsyncExitStack() as stack:
        servers = {name: await asyncio.start_server(kind, "127.0.0.1", 0) for name, kind in kinds.items()}
        for server in servers.values():
            stack.callback(server.close)
        ports = {name: server.sockets[0].getsockname()[1] for name, server in servers.items()}
        told: list[str] = []
        cluster = running(planned(tmp_path, ports))
        found = Front(cluster, told.append)
        await found.look()
        assert found.state.left_out == {}, "once is not enough"
        await found.look()
        assert found.state.left_out == dict.fromkeys(("api-2", "api-3", "api-4"), SICK)
        text = (tmp_path / "nginx" / "nginx.conf").read_text()
        servers_of = {name: [line for line in text.splitlines() if f":{port} " in line] for name, port in ports.items()}
        out = {name: {line.endswith(" down;") for line in lines} for name, lines in servers_of.items()}
        assert out == {"api-1": {False}, "api-2": {True}, "api-3": {True}, "api-4": {True}}, "of every upstream"
        servers["api-2"].close()
        await servers["api-2"].wait_closed()
        stack.callback((await asyncio.start_server(says(200), "127.0.0.1", ports["api-2"])).close)
        for _ in range(IN_A_ROW):
            await found.look()
        assert set(found.state.left_out) == {"api-3", "api-4"}
        assert told == [
            "nginx: api-2 is left out: sick, api-3 is left out: sick, api-4 is left out: sick",
            "nginx: api-2 is back",
        ]


def test_the_strategy_is_in_the_configuration_and_remembered(tmp_path: Path) -> None:
    planner = planned(tmp_path, {"api-1": 21001, "api-2": 21002})
    for strategy in (LEAST_CONN, ROUND_ROBIN):
        cluster = running(replace(planner, layout=replace(planner.layout, balancing=strategy)))
        asyncio.run(_applied(cluster))
        assert ("least_conn;" in (tmp_path / "nginx" / "nginx.conf").read_text()) == (strategy == LEAST_CONN)
        stored = layout.load(Directory(tmp_path))
        assert stored
        assert stored.balancing == strategy


async def _applied(cluster: Running) -> None:
    await Front(cluster, print).apply()


def test_an_older_nginx_gets_no_directive_that_it_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = planned(tmp_path, {"api-1": 21001})
    for version, knows in (((1, 27, 3), False), ((1, 27, 4), True), ((1, 31, 3), True)):
        monkeypatch.setattr("cluster.programs.version", lambda _, version=version: version)
        prepare.write_nginx(planner)
        assert ("keepalive_min_timeout" in (tmp_path / "nginx" / "nginx.conf").read_text()) == knows


def test_a_process_that_is_held_is_told_apart(tmp_path: Path) -> None:
    cluster = running(planned(tmp_path, {"api-1": 21001, "api-2": 21002}))

    async def hold() -> tuple[dict[str, str], dict[str, str]]:
        found = Front(cluster, print)
        found.hold(["api-2", "worker-0-1"])
        held = found.state.left_out
        found.release(["api-2"])
        return held, found.state.left_out

    assert asyncio.run(hold()) == ({"api-2": HELD}, {})
