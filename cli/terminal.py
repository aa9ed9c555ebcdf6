"""Images on terminals: detect the protocol, and encode the image for it. Pure.

Rules: detection uses environment variables only, because a terminal's reply to a query could end up in
the user's next command. ``VISION_PICTURES`` overrides it. Nothing is shown if stdout is not a terminal,
or inside tmux and screen, which do not pass images on.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

from contracts.media import sniff

Protocol = Literal["kitty", "iterm2", "sixel"]
_KITTY_CHUNK = 4096  # characters of base64
_ITERM = ("iTerm.app", "WezTerm", "mintty")
_SIXEL = ("foot", "mlterm", "contour", "yaft")
_SIXEL_SIDE = 640  # pixels, limit of each side
_COLORS = 255


def protocol(environ: Mapping[str, str], *, is_terminal: bool) -> Protocol | None:
    """The protocol of the terminal; None: it does not show images."""
    option = environ.get("VISION_PICTURES", "").lower()
    if not is_terminal or option == "none":
        return None
    for known in get_args(Protocol):
        if option == known:
            return known  # type: ignore[no-any-return]
    term, program = environ.get("TERM", ""), environ.get("TERM_PROGRAM", "")
    if environ.get("TMUX") or term.startswith(("screen", "tmux")):
        return None
    if (
        environ.get("KITTY_WINDOW_ID")
        or term in ("xterm-kitty", "xterm-ghostty")
        or program == "ghostty"
    ):
        return "kitty"
    if program in _ITERM or environ.get("LC_TERMINAL") == "iTerm2":
        return "iterm2"
    return "sixel" if term.startswith(_SIXEL) or "sixel" in term else None


def encoded(file: bytes, how: Protocol) -> str | None:
    """The text that shows the image *file*; None if Pillow is needed and not installed."""
    if how == "iterm2":
        text = base64.b64encode(file).decode()
        return f"\x1b]1337;File=inline=1;size={len(file)};preserveAspectRatio=1:{text}\a\n"
    if how == "kitty":
        png = file if sniff(file) == "png" else _as_png(file)
        return None if png is None else "".join(_kitty(png)) + "\n"
    return _sixel(file)


def _kitty(png: bytes) -> Iterator[str]:
    text = base64.b64encode(png).decode()
    for start in range(0, len(text), _KITTY_CHUNK):
        control = "a=T,f=100," if start == 0 else ""
        more = int(start + _KITTY_CHUNK < len(text))
        yield f"\x1b_G{control}m={more};{text[start : start + _KITTY_CHUNK]}\x1b\\"


def _as_png(file: bytes) -> bytes | None:
    try:
        from PIL import Image
    except ImportError:
        return None
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(file)) as image:
        image.save(buffer, "PNG")
    return buffer.getvalue()


def _sixel(file: bytes) -> str | None:
    try:
        from PIL import Image
    except ImportError:
        return None
    with Image.open(io.BytesIO(file)) as opened:
        image = opened.convert("RGB")
    image.thumbnail((_SIXEL_SIDE, _SIXEL_SIDE))
    image = image.quantize(_COLORS)
    width, height = image.size
    palette = image.getpalette() or []
    used = sorted(color for _, color in image.getcolors() or ())
    shares = {
        color: [round(v * 100 / 255) for v in palette[3 * color : 3 * color + 3]] for color in used
    }
    colors = "".join(f"#{color};2;{r};{g};{b}" for color, (r, g, b) in shares.items())
    pixels = image.tobytes()
    rows = [pixels[y * width : (y + 1) * width] for y in range(height)]
    bands = "-".join(_band(rows[top : top + 6]) for top in range(0, height, 6))
    return f'\x1bPq"1;1;{width};{height}{colors}{bands}\x1b\\\n'


def _band(rows: list[bytes]) -> str:
    """Encode six rows of pixels: one line of characters per color; the bits are the rows."""
    lines = []
    for color in sorted(set(b"".join(rows))):
        bits = [sum((row[x] == color) << y for y, row in enumerate(rows)) for x in range(len(rows[0]))]
        lines.append(f"#{color}{_runs(bits)}")
    return "$".join(lines)


def _runs(bits: list[int]) -> str:
    found: list[tuple[int, int]] = []
    for value in bits:
        if found and found[-1][0] == value:
            found[-1] = (value, found[-1][1] + 1)
        else:
            found.append((value, 1))
    return "".join(
        f"!{count}{chr(63 + value)}" if count > 3 else chr(63 + value) * count for value, count in found
    )
