"""The event bus: readers get all events in order, or the number of lost ones; no reader delays it."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manager.events import (
    CONNECTION_CHECK,
    KEPT,
    READER_LIMIT,
    BusEvent,
    EventBus,
    Subscription,
    event_of,
    last_event_id,
    stream,
)
from tests.loops import in_loop


def numbered(bus: EventBus, count: int) -> None:
    for number in range(count):
        bus.publish("transition", {"number": number})


async def rest(subscription: Subscription) -> list[BusEvent]:
    return [event async for event in subscription]


@in_loop
async def test_every_reader_gets_all_events_in_order() -> None:
    bus = EventBus()
    async with bus.subscribe() as one, bus.subscribe() as two:
        numbered(bus, 3)
        bus.close()
        received = await rest(one)
        assert received == await rest(two)
    assert [h.data["number"] for h in received] == [0, 1, 2]
    assert [h.id for h in received] == [1, 2, 3]


@in_loop
async def test_a_new_reader_gets_only_new_events() -> None:
    bus = EventBus()
    numbered(bus, 3)
    async with bus.subscribe() as reader:
        bus.publish("pressure", {})
        bus.close()
        assert [h.kind for h in await rest(reader)] == ["pressure"]


@in_loop
async def test_a_slow_reader_loses_the_oldest_events_and_gets_their_number() -> None:
    bus = EventBus()
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        for number in range(READER_LIMIT + 44):
            bus.publish("memory", {"number": number})
            await anext(quick)
        bus.close()
        lost, *received = await rest(slow)
        assert lost == BusEvent("lost", {"count": 44}, 0)
        assert [h.data["number"] for h in received] == list(range(44, READER_LIMIT + 44))
        assert await rest(quick) == []


@in_loop
async def test_a_reader_that_reconnects_gets_missed_events() -> None:
    bus = EventBus()
    numbered(bus, 5)
    async with bus.subscribe(last_id=3) as reader:
        numbered(bus, 1)
        bus.close()
        assert [h.id for h in await rest(reader)] == [4, 5, 6]


@in_loop
async def test_a_reader_that_reconnects_late_gets_the_number_of_lost_events() -> None:
    bus = EventBus()
    numbered(bus, KEPT + 10)
    bus.close()
    async with bus.subscribe(last_id=4) as reader:
        lost, *received = await rest(reader)
    assert lost == BusEvent("lost", {"count": 6}, 0)
    assert [h.id for h in received] == list(range(11, KEPT + 11))
    assert received == bus.recent


@pytest.mark.parametrize("last_id", [0, 7, 999, 1003, 10**17])
@in_loop
async def test_an_id_of_an_earlier_manager_gets_all_that_is_kept(last_id: int) -> None:
    bus = EventBus(first_id=1000)
    numbered(bus, 3)
    bus.close()
    async with bus.subscribe(last_id=last_id) as reader:
        assert [h.id for h in await rest(reader)] == [1000, 1001, 1002]


@in_loop
async def test_a_reader_that_leaves_is_forgotten() -> None:
    bus = EventBus()

    async def reader() -> None:
        async with bus.subscribe() as subscription:
            await anext(subscription)

    reading = asyncio.ensure_future(reader())
    await asyncio.sleep(0)
    assert bus.readers == 1
    reading.cancel()
    await asyncio.wait([reading])
    assert bus.readers == 0


@in_loop
async def test_closing_ends_current_and_later_subscriptions() -> None:
    bus = EventBus()
    async with bus.subscribe() as reader:
        waiting = asyncio.ensure_future(rest(reader))
        await asyncio.sleep(0)
        bus.close()
        assert await waiting == []
    bus.publish("memory", {})
    async with bus.subscribe() as late:
        assert await rest(late) == []


@in_loop
async def test_a_cancelled_wait_loses_no_event() -> None:
    bus = EventBus()
    async with bus.subscribe() as reader:
        for number in range(20):
            waiting = asyncio.ensure_future(anext(reader))
            await asyncio.sleep(0)
            bus.publish("memory", {"number": number})
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (await anext(reader)).data == {"number": number}


def test_a_published_event_does_not_change_with_the_publisher_s_data() -> None:
    data = {"level": "normal"}
    bus = EventBus()
    bus.publish("pressure", data)
    data["level"] = "critical"
    assert bus.recent == [BusEvent("pressure", {"level": "normal"}, 1)]


def test_an_event_has_id_kind_and_one_line_of_json() -> None:
    event = BusEvent("transition", {"alias": "a", "from": "ready", "reason": "two\nlines"}, 7)
    assert event_of(event) == (
        b'id: 7\nevent: transition\ndata: {"alias":"a","from":"ready","reason":"two\\nlines"}\n\n'
    )


def test_lost_has_no_id_so_a_reconnect_starts_at_the_last_real_event() -> None:
    assert event_of(BusEvent("lost", {"count": 3})) == b'event: lost\ndata: {"count":3}\n\n'


@given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.booleans()))
def test_no_text_breaks_the_lines_of_an_event(data: dict[str, Any]) -> None:
    first, second, third, *end = event_of(BusEvent("memory", data, 1)).split(b"\n")
    assert (first, second, end) == (b"id: 1", b"event: memory", [b"", b""])
    assert b"\r" not in third
    assert json.loads(third.removeprefix(b"data: ")) == data


@pytest.mark.parametrize(
    ("header", "last_id"),
    [("17", 17), (" 17 ", 17), *((text, None) for text in (None, "", "-1", "x", "٣", "9" * 19))],
)
def test_a_last_event_id_that_is_not_ours_is_none(header: str | None, last_id: int | None) -> None:
    assert last_event_id(header) == last_id


@in_loop
async def test_the_stream_begins_at_once_and_ends_when_the_bus_closes() -> None:
    bus = EventBus()
    async with bus.subscribe() as reader:
        bus.publish("pressure", {"level": "normal"})
        bus.close()
        chunks = [chunk async for chunk in stream(reader)]
    assert chunks == [CONNECTION_CHECK, event_of(bus.recent[0])]


@in_loop
async def test_connection_checks_fill_silence_and_lose_no_event() -> None:
    bus = EventBus()
    async with bus.subscribe() as reader:
        body = stream(reader, check_every_s=0.01)
        assert [await anext(body) for _ in range(4)] == [CONNECTION_CHECK] * 4
        numbered(bus, 3)
        bus.close()
        rest = [chunk async for chunk in body]
    assert [chunk for chunk in rest if chunk != CONNECTION_CHECK] == [event_of(h) for h in bus.recent]


@given(st.lists(st.sampled_from(["publish", "read"]), max_size=600))
@in_loop
async def test_received_and_lost_events_add_up_to_all_events(steps: list[str]) -> None:
    bus = EventBus()
    published = 0
    received: list[BusEvent] = []
    async with bus.subscribe() as reader:
        for step in steps:
            if step == "publish":
                for _ in range(50):
                    bus.publish("memory", {})
                published += 50
            elif published and (not received or received[-1].id != published):
                received.append(await anext(reader))
        bus.close()
        received += await rest(reader)
    ids = [h.id for h in received if h.kind != "lost"]
    assert len(ids) + sum(h.data["count"] for h in received if h.kind == "lost") == published
    assert all(later > earlier for earlier, later in pairwise(ids))
