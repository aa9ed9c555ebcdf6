"""A room that threads share: never more in it than it holds, and everybody gets in."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from workers.serving.byte_budget import Room


def test_no_more_is_taken_at_a_time_than_there_is() -> None:
    room, lock, inside, most = Room(10), threading.Lock(), 0, 0

    def take(amount: int) -> None:
        nonlocal inside, most
        with room.taken(amount):
            with lock:
                inside += min(amount, 10)
                most = max(most, inside)
            time.sleep(0.001)
            with lock:
                inside -= min(amount, 10)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(take, [1, 3, 10, 4, 25, 2, 7, 10] * 20, timeout=30))
    assert most == 10
    assert inside == 0


def test_a_large_one_is_not_passed_by_small_ones_that_came_later() -> None:
    room, order = Room(10), []
    held = room.taken(5)
    held.__enter__()

    def take(name: str, amount: int) -> None:
        with room.taken(amount):
            order.append(name)

    large = threading.Thread(target=take, args=("large", 10))
    large.start()
    time.sleep(0.1)
    small = threading.Thread(target=take, args=("small", 1))
    small.start()
    time.sleep(0.1)
    assert order == []
    held.__exit__(None, None, None)
    large.join(5)
    small.join(5)
    assert order == ["large", "small"]


def test_what_fails_inside_gives_its_room_back() -> None:
    room = Room(1)
    with pytest.raises(ValueError, match="inside"), room.taken(1):
        raise ValueError("inside")
    with room.taken(1):
        pass
