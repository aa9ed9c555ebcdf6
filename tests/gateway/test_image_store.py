"""The image store: bounded in time and bytes, with names that can't be guessed."""

from __future__ import annotations

import pytest

from gateway.images_out.store import ImageStore, StoredImage, StoreFull


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def image(size: int) -> StoredImage:
    return StoredImage("png", bytes(size))


def test_an_image_is_available_until_it_expires_and_is_then_freed() -> None:
    clock = Clock()
    store = ImageStore(60, 100, clock=clock)
    (token,) = store.put([image(80)])
    clock.now += 59
    assert store.get(token) == (image(80), 1.0)
    clock.now += 1
    assert store.get(token) is None
    assert repr(store) == "<ImageStore 0, 0 of 100 bytes>"


def test_a_sweep_frees_expired_images() -> None:
    clock = Clock()
    store = ImageStore(60, 100, clock=clock)
    store.put([image(40)])
    clock.now += 30
    store.put([image(40)])
    clock.now += 30
    store.sweep()
    assert repr(store) == "<ImageStore 1, 40 of 100 bytes>"


def test_only_as_many_of_the_oldest_images_as_needed_are_dropped() -> None:
    store = ImageStore(60, 100, clock=Clock())
    first, second = store.put([image(40), image(40)])
    (third,) = store.put([image(50)])
    assert [store.get(token) is not None for token in (first, second, third)] == [False, True, True]


def test_an_oversized_response_is_refused_and_evicts_nothing() -> None:
    store = ImageStore(60, 100, clock=Clock())
    (kept,) = store.put([image(100)])
    with pytest.raises(StoreFull):
        store.put([image(60), image(60)])
    assert store.get(kept) is not None


def test_tokens_are_long_and_unique() -> None:
    store = ImageStore(60, 10_000, clock=Clock())
    tokens = store.put([image(1)] * 1000)
    assert len(set(tokens)) == 1000
    assert all(len(token) == 32 for token in tokens), "192 bits"


def test_image_data_is_not_in_the_repr() -> None:
    assert "data" not in repr(image(3))
