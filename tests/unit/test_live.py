"""Server-sent events: one look for all viewers, while there are any, and only what has changed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Iterator

import msgspec
import pytest
from django.http import HttpResponse, StreamingHttpResponse
from django.test import RequestFactory, override_settings

from counters.api import live, status
from counters.api.live import Frames, Live
from runtime.resources import Resources


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.01)


class Looks:
    """Makes frames, and counts how often."""

    def __init__(self) -> None:
        self.made: list[bool] = []
        self.trouble: Exception | None = None

    def make(self, staff: bool) -> Frames:
        self.made.append(staff)
        if self.trouble:
            raise self.trouble
        return {"clock": str(len(self.made)), "name": "ann" if staff else "somebody"}


@pytest.fixture
def looks() -> Looks:
    return Looks()


async def event(viewer: AsyncIterator[bytes]) -> dict[str, str]:
    """The next event that has data."""
    while not (found := await anext(viewer)).startswith(b"data: "):
        pass
    assert found.endswith(b"\n\n")
    assert found.count(b"\n") == 2
    parsed: dict[str, str] = json.loads(found.removeprefix(b"data: "))
    return parsed


def test_viewers_share_a_look_and_see_what_changes(looks: Looks) -> None:
    async def watch() -> None:
        shown = Live(100, looks.make)
        viewers = [shown.watch(False) for _ in range(30)]
        firsts = await asyncio.gather(*map(event, viewers))
        assert firsts == [{"clock": firsts[0]["clock"], "name": "somebody"}] * 30
        await asyncio.gather(*map(event, viewers))
        assert (await event(viewers[0])).keys() == {"clock"}
        assert len(looks.made) < 30, "one look for all"
        for viewer in viewers:
            await viewer.aclose()
        await asyncio.sleep(0.05)
        made = len(looks.made)
        await asyncio.sleep(0.05)
        assert len(looks.made) == made, "nobody watches"
        viewer = shown.watch(False)
        assert (await event(viewer))["name"] == "somebody"
        await viewer.aclose()

    asyncio.run(watch())


def test_staff_and_others_see_different_things(looks: Looks) -> None:
    async def watch() -> None:
        shown = Live(100, looks.make)
        staff, other = shown.watch(True), shown.watch(False)
        assert [one["name"] for one in await asyncio.gather(event(staff), event(other))] == ["ann", "somebody"]
        await staff.aclose()
        await event(other)
        made = len(looks.made)
        await event(other)
        await event(other)
        assert True not in looks.made[made:]
        await other.aclose()

    asyncio.run(watch())


def test_a_look_that_fails_is_a_comment(looks: Looks) -> None:
    async def watch() -> None:
        viewer = Live(1, looks.make).watch(False)
        await event(viewer)
        looks.trouble = RuntimeError("of a test")
        while (found := await anext(viewer)).startswith(b"data"):
            pass
        assert found.startswith(b":")
        looks.trouble = None
        assert await event(viewer)
        await viewer.aclose()

    asyncio.run(watch())


def test_a_stream_ends_by_itself(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that who asks is checked again."""
    monkeypatch.setattr(live, "STREAM_SECONDS", 0.05)

    async def watch() -> None:
        shown = Live(1, looks.make)
        assert len([one async for one in shown.watch(True)]) > 1
        assert not shown.is_full

    asyncio.run(watch())


@pytest.fixture
def one_viewer(looks: Looks, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(status, "frames", looks.make)
    with Resources(), override_settings(TALLY=_settings(status_viewers=1)):
        yield


def _settings(**changes: object) -> object:
    from django.conf import settings  # noqa: PLC0415 - Django is not set up when this file is read

    return settings.TALLY.model_copy(update=changes)


@pytest.mark.limit("TALLY_STATUS_VIEWERS")
def test_one_viewer_too_many_is_refused(one_viewer: None) -> None:
    request = RequestFactory().get("/status/live")

    async def watch() -> None:
        first, second = (status.live(request) for _ in range(2))
        assert isinstance(first, StreamingHttpResponse)
        assert isinstance(second, StreamingHttpResponse)
        assert first.headers["X-Accel-Buffering"] == "no"
        viewer = first.streaming_content
        assert isinstance(viewer, AsyncGenerator)
        await event(viewer)
        refused = status.live(request)
        assert isinstance(refused, HttpResponse)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert msgspec.json.decode(refused.content)["type"] == "urn:tally:problem:too-many-viewers"
        assert [one async for one in second] == [b"retry: 1000\n\n"], (
            "asked when there was room, and began when there was none"
        )
        await viewer.aclose()

    asyncio.run(watch())
