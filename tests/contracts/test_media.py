"""Images in requests: decoding, refusals, and sizes."""

from __future__ import annotations

import base64

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.errors import InvalidRequest, UnsupportedParameter
from contracts.media import Size, fit_size, parse_size, read_image_field, sniff

PNG = b"\x89PNG\r\n\x1a\n" + b"rest"
ENCODED = base64.b64encode(PNG).decode()


READABLE = [
    ENCODED,
    f"data:image/png;base64,{ENCODED}",
    f"data:image/jpeg;charset=x;base64,{ENCODED}",  # the bytes decide the type
    ENCODED[:8] + "\r\n" + ENCODED[8:],
    ENCODED.rstrip("="),
]


def test_base64_and_data_uris_are_decoded() -> None:
    for text in READABLE:
        assert read_image_field(text, "image") == PNG


UNREADABLE = [
    "",
    "not base64!",
    "aGVsbG8=",
    "data:image/png,raw",
    "data:;base64,",
    "data:image/png",
    "ÿ",
    "A",
]


def test_invalid_image_text_is_refused_with_the_field() -> None:
    for text in UNREADABLE:
        with pytest.raises(InvalidRequest) as caught:
            read_image_field(text, "messages[0].content[1].image_url.url")
        assert caught.value.param == "messages[0].content[1].image_url.url"


def test_a_url_is_refused_as_unsupported() -> None:
    with pytest.raises(UnsupportedParameter, match="not fetched"):
        read_image_field("https://example.org/a.png", "image")


@given(st.text(max_size=200))
def test_any_text_is_decoded_or_refused(text: str) -> None:
    try:
        assert sniff(read_image_field(text, "image"))
    except InvalidRequest as exc:
        assert exc.param == "image"  # noqa: PT017 - both ends are asserted


def test_sides_are_rounded_down_to_multiples_of_16() -> None:
    assert parse_size("500x770", max_pixels=10**7) == Size(496, 768)
    assert str(parse_size(" 512X512 ", max_pixels=10**7)) == "512x512"


INVALID_SIZES = [
    "0x0",
    "15x512",
    "512",
    "x",
    "-1x5",
    "5.0x5",
    "1e3x1e3",
    "512x512x3",
    "99999x99999",
    "autos",
]


def test_an_invalid_size_is_refused() -> None:
    for text in INVALID_SIZES:
        with pytest.raises(InvalidRequest) as caught:
            parse_size(text, max_pixels=2048 * 2048)
        assert caught.value.param == "size"


SIDES = st.one_of(st.integers(1, 20_000), st.integers(1, 100_000_000))


@example(100_000_000, 1, 4_000_000)  # a strip, which compresses to a few kB
@given(SIDES, SIDES, st.integers(256, 4_000_000))
def test_an_edit_is_scaled_to_the_limit_in_multiples_of_16(
    width: int, height: int, max_pixels: int
) -> None:
    size = fit_size(Size(width, height), max_pixels=max_pixels)
    assert size.width % 16 == size.height % 16 == 0
    assert size.width >= 16
    assert size.height >= 16
    assert size.pixels <= max_pixels


def test_an_image_within_the_limit_keeps_its_size() -> None:
    assert fit_size(Size(128, 256), max_pixels=65536) == Size(128, 256)
