"""The image store: bounded in time and bytes, with names that can't be guessed."""

from __future__ import annotations

import pytest

from gateway.images_out.store import ImageStore, StoredImage, StoreFull


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def picture(size: int) -> StoredImage:
    return StoredImage("png", bytes(size))


def test_an_image_is_available_until_it_expires_and_is_then_freed() -> None:
    clock = Clock()
    pictures = ImageStore(60, 100, clock=clock)
    (token,) = pictures.put([picture(80)])
    clock.now += 59
    assert pictures.get(token) == (picture(80), 1.0)
    clock.now += 1
    assert pictures.get(token) is None
    assert repr(pictures) == "<ImageStore 0, 0 of 100 bytes>"


def test_a_sweep_frees_expired_images() -> None:
    clock = Clock()
    pictures = ImageStore(60, 100, clock=clock)
    pictures.put([picture(40)])
    clock.now += 30
    pictures.put([picture(40)])
    clock.now += 30
    pictures.sweep()
    assert repr(pictures) == "<ImageStore 1, 40 of 100 bytes>"


def test_only_as_many_of_the_oldest_images_as_needed_are_dropped() -> None:
    pictures = ImageStore(60, 100, clock=Clock())
    first, second = pictures.put([picture(40), picture(40)])
    (third,) = pictures.put([picture(50)])
    assert [pictures.get(token) is not None for token in (first, second, third)] == [False, True, True]


def test_an_oversized_response_is_refused_and_evicts_nothing() -> None:
    pictures = ImageStore(60, 100, clock=Clock())
    (kept,) = pictures.put([picture(100)])
    with pytest.raises(StoreFull):
        pictures.put([picture(60), picture(60)])
    assert pictures.get(kept) is not None


def test_tokens_are_long_and_unique() -> None:
    pictures = ImageStore(60, 10_000, clock=Clock())
    tokens = pictures.put([picture(1)] * 1000)
    assert len(set(tokens)) == 1000
    assert all(len(token) == 32 for token in tokens), "192 bits"


def test_image_data_is_not_in_the_repr() -> None:
    assert "data" not in repr(picture(3))
