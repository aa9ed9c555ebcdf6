"""Prefix cache, vision cache and cache keys, compared with a plain model of the same."""

from __future__ import annotations

import gc
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.vlm.prompt import PromptImage, cache_key, usable_prefix

pytestmark = pytest.mark.mlx

TOKEN_BYTES = 2 * 2 * 4 * 3  # keys and values of two layers, three float32 each


def layers(tokens: list[int]) -> Any:
    """Keys and values that show which tokens they belong to, and the tokens before."""
    import mlx.core as mx  # noqa: TID251 - what the engine caches

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
    def test_a_stored_prefix_is_found_and_nothing_else(self) -> None:
        cache = prefixes()
        assert cache.match([1, 2, 3]) == 0
        cache.store([1, 2, 3, 4], layers([1, 2, 3, 4]))
        assert cache.match([1, 2, 3, 4, 5]) == 4
        assert cache.match([1, 2, 9]) == 2
        assert cache.match([2, 3]) == 0
        assert equal(cache.fetch([1, 2, 9], 2), layers([1, 2]))
        with pytest.raises(LookupError):
            cache.fetch([1, 2, 9], 3)

    def test_a_prefix_that_prompts_share_is_stored_once(self) -> None:
        cache = prefixes()
        for tail in range(5):
            tokens = [*range(50), 100 + tail]
            cache.store(tokens, layers(tokens))
        assert len(cache) == 55
        assert cache.nbytes == 55 * TOKEN_BYTES

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**9))
    def test_the_longest_stored_prefix_of_any_prompt_is_found(self, seed: int) -> None:
        rng = random.Random(seed)
        cache = prefixes()
        stored: list[list[int]] = []
        for _ in range(12):
            tokens = [rng.randrange(3) for _ in range(rng.randint(1, 12))]
            known = max((common(tokens, old) for old in stored), default=0)
            assert cache.match(tokens) == known
            if known:
                length = rng.randint(1, known)
                assert equal(cache.fetch(tokens, length), layers(tokens[:length]))
            cache.store(tokens, layers(tokens))
            stored.append(tokens)
        tree = {tuple(old[: i + 1]) for old in stored for i in range(len(old))}
        assert len(cache) == len(tree)
        assert cache.nbytes == len(tree) * TOKEN_BYTES

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10**9))
    def test_the_limit_holds_and_every_hit_is_correct(self, seed: int) -> None:
        rng = random.Random(seed)
        limit = 20 * TOKEN_BYTES
        cache = prefixes(limit)
        for _ in range(30):
            tokens = [rng.randrange(4) for _ in range(rng.randint(1, 12))]
            if known := cache.match(tokens):
                assert equal(cache.fetch(tokens, known), layers(tokens[:known]))
            cache.store(tokens, layers(tokens))
            assert cache.match(tokens) == len(tokens)
            assert cache.nbytes == len(cache) * TOKEN_BYTES <= limit

    def test_the_least_recently_used_prefix_is_evicted_first(self) -> None:
        cache = prefixes(10 * TOKEN_BYTES)
        for first in (1, 2):
            cache.store([first] * 5, layers([first] * 5))
        cache.match([1] * 5)
        cache.store([3] * 5, layers([3] * 5))
        assert [cache.match([first] * 5) for first in (1, 2, 3)] == [5, 0, 5]

    def test_a_prompt_larger_than_the_cache_evicts_nothing(self) -> None:
        cache = prefixes(4 * TOKEN_BYTES)
        cache.store([1, 2], layers([1, 2]))
        cache.store([5] * 9, layers([5] * 9))
        assert cache.match([1, 2]) == 2
        assert cache.match([5] * 9) == 0

    def test_a_cache_without_bytes_is_off(self) -> None:
        cache = prefixes(0)
        cache.store([1], layers([1]))
        assert not cache.enabled
        assert len(cache) == 0

    def test_a_cleared_cache_holds_no_arrays(self) -> None:
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
def test_the_common_prefix_of_two_prompts_is_counted(a: list[int], b: list[int]) -> None:
    from workers.vlm import kv_cache

    assert kv_cache.common_prefix(a, b) == common(a, b)


def test_the_vision_cache_is_bounded_and_evicts_the_least_recently_used() -> None:
    import mlx.core as mx  # noqa: TID251

    from workers.vlm.kv_cache import FeatureCache

    cache = FeatureCache(3 * 40)
    for key in (1, 2, 3):
        cache.put(key, mx.full((10,), key, dtype=mx.float32))
    assert cache.get(1) is not None
    cache.put(4, mx.zeros((10,)))
    assert cache.get(2) is None
    assert (len(cache), cache.nbytes) == (3, 120)
    cache.put(5, mx.zeros((100,)))  # larger than the cache
    assert (len(cache), cache.get(5)) == (3, None)
    cache.clear()
    assert (len(cache), cache.nbytes) == (0, 0)


class TestCacheKeys:
    def test_the_positions_of_an_image_hold_its_key(self) -> None:
        ids = [7, 0, 0, 8, 0, 0, 9]
        images = [PromptImage(5, 1, 2, None, None), PromptImage(6, 4, 2, None, None)]
        assert cache_key(ids, images) == [7, -6, -6, 8, -7, -7, 9]
        assert cache_key(ids, images[:1], before=1) == [-6, -6, -6, 8, 0, 0, 9]

    def test_an_image_is_used_whole_or_not_at_all(self) -> None:
        image = PromptImage(5, 1, 2, None, None)
        for hit, used in ((0, 0), (1, 1), (2, 1), (3, 3), (5, 5)):
            assert usable_prefix(hit, [image]) == used
