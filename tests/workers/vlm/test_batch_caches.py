"""What is kept of prompts and pictures, against a plain model of the same."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.vlm.prompt import Picture, named, usable

pytestmark = pytest.mark.mlx

TOKEN_BYTES = 2 * 2 * 4 * 3  # keys and values of two layers, three float32 each


def layers(tokens: list[int]) -> Any:
    """Keys and values that tell which tokens they are of, and after which."""
    import mlx.core as mx  # noqa: TID251 - what the engine keeps

    sums = [float(sum(tokens[: i + 1])) for i in range(len(tokens))]
    rows = mx.array(
        [[token, total, i] for i, (token, total) in enumerate(zip(tokens, sums, strict=True))]
    )
    one = rows.reshape(1, 1, len(tokens), 3)
    return tuple((one + layer, one * 2 + layer) for layer in range(2))


def prefixes(limit: int = 1 << 20) -> Any:
    from workers.vlm.kv_cache import PrefixCache

    return PrefixCache(limit)


def equal(a: Any, b: Any) -> bool:
    return all(
        bool((x == y).all()) and x.shape == y.shape
        for one, other in zip(a, b, strict=True)
        for x, y in zip(one, other, strict=True)
    )


class TestPrefixes:
    def test_what_was_stored_is_found_and_nothing_else(self) -> None:
        cache = prefixes()
        assert cache.match([1, 2, 3]) == 0
        cache.store([1, 2, 3, 4], layers([1, 2, 3, 4]))
        assert cache.match([1, 2, 3, 4, 5]) == 4
        assert cache.match([1, 2, 9]) == 2
        assert cache.match([2, 3]) == 0
        assert equal(cache.fetch([1, 2, 9], 2), layers([1, 2]))
        with pytest.raises(LookupError):
            cache.fetch([1, 2, 9], 3)

    def test_what_two_prompts_begin_with_is_kept_once(self) -> None:
        cache = prefixes()
        for tail in range(5):
            tokens = [*range(50), 100 + tail]
            cache.store(tokens, layers(tokens))
        assert len(cache) == 55
        assert cache.nbytes == 55 * TOKEN_BYTES

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**9))
    def test_any_prompts_are_found_by_their_longest_known_beginning(self, seed: int) -> None:
        draw = random.Random(seed)
        cache = prefixes()
        kept: list[list[int]] = []
        for _ in range(12):
            tokens = [draw.randrange(3) for _ in range(draw.randint(1, 12))]
            known = max((common(tokens, old) for old in kept), default=0)
            assert cache.match(tokens) == known
            if known:
                length = draw.randint(1, known)
                assert equal(cache.fetch(tokens, length), layers(tokens[:length]))
            cache.store(tokens, layers(tokens))
            kept.append(tokens)
        tree = {tuple(old[: i + 1]) for old in kept for i in range(len(old))}
        assert len(cache) == len(tree)
        assert cache.nbytes == len(tree) * TOKEN_BYTES

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**9))
    def test_the_bound_holds_and_what_is_found_is_right(self, seed: int) -> None:
        draw = random.Random(seed)
        limit = 20 * TOKEN_BYTES
        cache = prefixes(limit)
        for _ in range(30):
            tokens = [draw.randrange(4) for _ in range(draw.randint(1, 12))]
            if known := cache.match(tokens):
                assert equal(cache.fetch(tokens, known), layers(tokens[:known]))
            cache.store(tokens, layers(tokens))
            assert cache.match(tokens) == len(tokens)
            assert cache.nbytes == len(cache) * TOKEN_BYTES <= limit

    def test_what_was_used_longest_ago_goes_first(self) -> None:
        cache = prefixes(10 * TOKEN_BYTES)
        for first in (1, 2):
            cache.store([first] * 5, layers([first] * 5))
        cache.match([1] * 5)
        cache.store([3] * 5, layers([3] * 5))
        assert [cache.match([first] * 5) for first in (1, 2, 3)] == [5, 0, 5]

    def test_what_is_larger_than_the_cache_drives_nothing_out(self) -> None:
        cache = prefixes(4 * TOKEN_BYTES)
        cache.store([1, 2], layers([1, 2]))
        cache.store([5] * 9, layers([5] * 9))
        assert cache.match([1, 2]) == 2
        assert cache.match([5] * 9) == 0

    def test_a_cache_of_no_bytes_keeps_nothing(self) -> None:
        cache = prefixes(0)
        cache.store([1], layers([1]))
        assert not cache.enabled
        assert len(cache) == 0

    def test_cleared_it_holds_no_arrays(self) -> None:
        import gc

        import mlx.core as mx  # noqa: TID251

        cache = prefixes()
        for tail in range(4):
            tokens = [*range(3000), -tail]
            cache.store(tokens, layers(tokens))
        gc.disable()
        try:
            before = mx.get_active_memory()
            held = cache.nbytes
            cache.clear()
            assert mx.get_active_memory() <= before - held
        finally:
            gc.enable()
        assert (cache.nbytes, len(cache), cache.match([0, 1])) == (0, 0, 0)


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@given(st.lists(st.integers(0, 1), max_size=12), st.lists(st.integers(0, 1), max_size=12))
def test_common_beginnings_are_counted(a: list[int], b: list[int]) -> None:
    from workers.vlm import kv_cache

    assert kv_cache.common(a, b) == common(a, b)


class TestFeatures:
    def test_they_are_bounded_and_what_was_used_longest_ago_goes(self) -> None:
        import mlx.core as mx  # noqa: TID251

        from workers.vlm.kv_cache import FeatureCache

        cache = FeatureCache(3 * 40)
        for key in (1, 2, 3):
            cache.put(key, mx.full((10,), key, dtype=mx.float32))
        assert cache.get(1) is not None
        cache.put(4, mx.zeros((10,)))
        assert cache.get(2) is None
        assert (len(cache), cache.nbytes) == (3, 120)
        cache.put(5, mx.zeros((100,)))  # larger than all
        assert (len(cache), cache.get(5)) == (3, None)
        cache.clear()
        assert (len(cache), cache.nbytes) == (0, 0)


class TestNames:
    def test_the_places_of_a_picture_hold_its_own_number(self) -> None:
        ids = [7, 0, 0, 8, 0, 0, 9]
        pictures = [Picture(5, 1, 2, None, None), Picture(6, 4, 2, None, None)]
        assert named(ids, pictures) == [7, -6, -6, 8, -7, -7, 9]
        assert named(ids, pictures[:1], before=1) == [-6, -6, -6, 8, 0, 0, 9]

    @pytest.mark.parametrize(("hit", "used"), [(0, 0), (1, 1), (2, 1), (3, 3), (5, 5)])
    def test_a_picture_is_used_whole_or_not_at_all(self, hit: int, used: int) -> None:
        assert usable(hit, [Picture(5, 1, 2, None, None)]) == used
