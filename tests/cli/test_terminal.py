"""Images are encoded for the protocol of the terminal."""

from __future__ import annotations

import base64
import io
import re
from itertools import product

import pytest
from PIL import Image

from cli.terminal import encoded, protocol
from testkit.images import RED_CIRCLE, png


@pytest.mark.parametrize(
    ("environ", "how"),
    [
        ({}, None),
        ({"TERM": "xterm-256color"}, None),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "foot"}, "sixel"),
        ({"TERM": "xterm-sixel"}, "sixel"),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, None),
        ({"TMUX": "/x", "TERM_PROGRAM": "iTerm.app"}, None),
        ({"TMUX": "/x", "VISION_PICTURES": "sixel"}, "sixel"),
        ({"TERM": "xterm-kitty", "VISION_PICTURES": "none"}, None),
        ({"TERM": "xterm-kitty", "VISION_PICTURES": "iterm2"}, "iterm2"),
    ],
)
def test_the_environment_selects_the_protocol(environ: dict[str, str], how: str | None) -> None:
    assert protocol(environ, is_terminal=True) == how
    assert protocol(environ, is_terminal=False) is None


def test_iterm2_gets_the_file() -> None:
    text = encoded(png(RED_CIRCLE), "iterm2")
    assert text is not None
    found = re.fullmatch(r"\x1b]1337;File=inline=1;size=(\d+);preserveAspectRatio=1:(.+)\a\n", text)
    assert found
    assert base64.b64decode(found[2]) == png(RED_CIRCLE)
    assert int(found[1]) == len(png(RED_CIRCLE))


def kitty(text: str) -> bytes:
    chunks = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", text)
    assert [control for control, _ in chunks[:-1]] == ["a=T,f=100,m=1", *["m=1"] * (len(chunks) - 2)]
    assert chunks[-1][0].endswith("m=0")
    assert all(len(part) <= 4096 for _, part in chunks)
    return base64.b64decode("".join(part for _, part in chunks))


def test_kitty_gets_a_png_in_chunks() -> None:
    noise = Image.effect_noise((128, 128), 90)
    buffer = io.BytesIO()
    noise.save(buffer, "PNG")
    assert kitty(encoded(buffer.getvalue(), "kitty") or "") == buffer.getvalue()


def test_kitty_gets_other_formats_as_png() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (300, 200), "red").save(buffer, "JPEG")
    found = re.findall(r";([^\x1b]*)\x1b\\", encoded(buffer.getvalue(), "kitty") or "")
    with Image.open(io.BytesIO(base64.b64decode("".join(found)))) as image:
        assert (image.format, image.size) == ("PNG", (300, 200))


def sixel(text: str) -> dict[tuple[int, int], tuple[int, ...]]:
    """Decode sixel text to pixels."""
    body = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\\n', text)
    assert body
    palette: dict[int, tuple[int, ...]] = {}
    painted = {}
    x = y = color = 0
    for token in re.finditer(
        r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)", body[3]
    ):
        define, r, g, b, choose, count, repeated, single, back, down = token.groups()
        if define:
            palette[int(define)] = (int(r), int(g), int(b))
        elif choose:
            color = int(choose)
        elif back:
            x = 0
        elif down:
            x, y = 0, y + 6
        else:
            run, bits = int(count or 1), ord(repeated or single) - 63
            for column, row in product(range(x, x + run), range(6)):
                if bits >> row & 1:
                    assert (column, y + row) not in painted
                    painted[column, y + row] = palette[color]
            x += run
    return painted


def test_sixel_paints_every_pixel_once_in_its_color() -> None:
    image = Image.new("RGB", (20, 14), "blue")
    image.paste((255, 0, 0), (3, 2, 17, 9))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    painted = sixel(encoded(buffer.getvalue(), "sixel") or "")
    assert len(painted) == 20 * 14
    for (x, y), color in painted.items():
        expected = image.getpixel((x, y))
        assert isinstance(expected, tuple)
        assert color == tuple(round(v * 100 / 255) for v in expected)


def test_sixel_scales_a_large_image_down() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1280, 640), "green").save(buffer, "PNG")
    assert len(sixel(encoded(buffer.getvalue(), "sixel") or "")) == 640 * 320
