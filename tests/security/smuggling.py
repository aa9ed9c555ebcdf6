"""Requests that two servers in a row could read differently, by how they must be read."""

from __future__ import annotations

from collections.abc import Callable

from tests.security.hops import head, request

Build = Callable[[bytes, bytes, bytes], bytes]  # path, body, hidden request -> the bytes to send


def chunked(data: bytes, *, trailers: bytes = b"") -> bytes:
    return b"%x\r\n%b\r\n0\r\n%b\r\n" % (len(data), data, trailers)


def fields(*lines: bytes, version: bytes = b"1.1") -> Build:
    """These header lines (``%d``: length of the body), the body unframed, and the hidden request."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        framing = [line % len(data) if b"%" in line else line for line in lines]
        return head(path, *framing, version=version) + data + hidden

    return build


def coded(*lines: bytes) -> Build:
    """These header lines, the body in one chunk, and the hidden request."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        framing = [line % len(data) if b"%" in line else line for line in lines]
        return head(path, *framing) + chunked(data) + hidden

    return build


def chunks(frame: bytes, *, hides: bool = False) -> Build:
    """A chunked body framed by hand (``SIZE``, ``DATA``); *hides*: the hidden request follows it."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        framed = frame.replace(b"SIZE", b"%x" % len(data)).replace(b"DATA", data)
        return head(path, b"transfer-encoding: chunked") + framed + (hidden if hides else b"")

    return build


def start(line: bytes) -> Build:
    """A valid request with another first line; ``PATH`` is the path."""

    def build(path: bytes, data: bytes, hidden: bytes) -> bytes:
        lines = (line.replace(b"PATH", path), b"host: localhost", b"content-length: %d" % len(data))
        return b"\r\n".join([*lines, b"", data])

    return build


LENGTH, CHUNKED = b"content-length: %d", b"transfer-encoding: chunked"

REFUSED: dict[str, Build] = {
    # Several or invalid lengths.
    "CL.TE": coded(LENGTH, CHUNKED),
    "TE.CL": coded(CHUNKED, b"content-length: 4"),
    "CL 0 and TE": coded(b"content-length: 0", CHUNKED),
    "two lengths": fields(LENGTH, b"content-length: 0"),
    "two equal lengths": fields(LENGTH, LENGTH),
    "a list of lengths": fields(b"content-length: 5, %d"),
    "length +5": fields(b"content-length: +%d"),
    "length -5": fields(b"content-length: -%d"),
    "length 0x5": fields(b"content-length: 0x%d"),
    "length 5.0": fields(b"content-length: %d.0"),
    "length 5e0": fields(b"content-length: %de0"),
    "length 5 5": fields(b"content-length: %d 5"),
    "length 1_5": fields(b"content-length: 1_%d"),
    'length "5"': fields(b'content-length: "%d"'),
    "length of 5,": fields(b"content-length: %d,"),
    "empty length": fields(b"content-length:"),
    "length beyond 64 bits": fields(b"content-length: 18446744073709551616"),
    "length that wraps to 5": fields(b"content-length: 1844674407370955161%d"),
    "space before the colon of CL": fields(b"content-length : %d"),
    "tab before the colon of CL": fields(b"content-length\t: %d"),
    # Codings that only some servers know.
    "TE identity": coded(b"transfer-encoding: identity"),
    "TE identity and CL": fields(LENGTH, b"transfer-encoding: identity"),
    "TE xchunked": coded(b"transfer-encoding: xchunked"),
    "TE chunked, identity": coded(b"transfer-encoding: chunked, identity"),
    "TE chunked, chunked": coded(b"transfer-encoding: chunked, chunked"),
    "TE twice": coded(CHUNKED, CHUNKED),
    "TE chunked, then another": coded(CHUNKED, b"transfer-encoding: cow"),
    "TE quoted": coded(b'transfer-encoding: "chunked"'),
    "TE with a parameter": coded(b"transfer-encoding: chunked;q=1"),
    "empty TE": coded(b"transfer-encoding:"),
    "TE behind a vertical tab": coded(b"transfer-encoding: \x0bchunked"),
    "TE before a vertical tab": coded(b"transfer-encoding: chunked\x0b"),
    "TE with a NUL": coded(b"transfer-encoding: chunked\x00"),
    "TE with a foreign letter": coded(b"transfer-encoding: chu\xffnked"),
    "space before the colon of TE": coded(b"transfer-encoding : chunked"),
    # Lines that only some servers join or split.
    "folded TE": coded(b"transfer-encoding:\r\n chunked"),
    "folded CL": fields(b"content-length:\r\n %d"),
    "TE folded into another": coded(b"x-a: b\r\n\ttransfer-encoding: chunked"),
    "space before the first header": fields(b" x-a: b", LENGTH),
    "LF for line ends": lambda path, data, hidden: request(path, data).replace(b"\r\n", b"\n"),
    "LF after one header": fields(b"x-a: b\nx-b: c", LENGTH),
    "TE after LF": coded(b"x-a: b\ntransfer-encoding: chunked", LENGTH),
    "TE after CR": coded(b"x-a: b\rtransfer-encoding: chunked", LENGTH),
    "CR CR LF": fields(b"x-a: b\r", LENGTH),
    "LF as the blank line": lambda path, data, hidden: (
        head(path, LENGTH % len(data))[:-2] + b"\n" + data
    ),
    "NUL in a value": fields(b"x-a: b\x00c", LENGTH),
    "NUL in a name": fields(b"x\x00a: b", LENGTH),
    "control characters in a value": fields(b"x-a: b\x01\x7fc", LENGTH),
    "a line without a colon": fields(b"nonsense", LENGTH),
    "a header without a name": fields(b": b", LENGTH),
    # Chunks.
    "chunk size 0x5": chunks(b"0xSIZE\r\nDATA\r\n0\r\n\r\n"),
    "chunk size +5": chunks(b"+SIZE\r\nDATA\r\n0\r\n\r\n"),
    "chunk size -5": chunks(b"-SIZE\r\nDATA\r\n0\r\n\r\n"),
    "space before a chunk size": chunks(b" SIZE\r\nDATA\r\n0\r\n\r\n"),
    "space after a chunk size": chunks(b"SIZE \r\nDATA\r\n0\r\n\r\n"),
    "chunk size 1_0": chunks(b"1_0\r\nDATA\r\n0\r\n\r\n"),
    "no chunk size": chunks(b"\r\nDATA\r\n0\r\n\r\n"),
    "chunk size that is not a number": chunks(b"g\r\nDATA\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": chunks(b"100000000000000SIZE\r\nDATA\r\n0\r\n\r\n"),
    "chunk longer than it says": chunks(b"SIZE\r\nDATAXX\r\n0\r\n\r\n", hides=True),
    "no CRLF after a chunk": chunks(b"SIZE\r\nDATA0\r\n\r\n", hides=True),
    "LF after a chunk": chunks(b"SIZE\r\nDATA\n0\r\n\r\n", hides=True),
    "LF after a chunk size": chunks(b"SIZE\nDATA\r\n0\r\n\r\n", hides=True),
    "CR after a chunk size": chunks(b"SIZE\rDATA\r\n0\r\n\r\n", hides=True),
    "LF after the last chunk": chunks(b"SIZE\r\nDATA\r\n0\n\n", hides=True),
    "extension that ends in LF": chunks(b"SIZE;a\nDATA\r\n0\r\n\r\n", hides=True),
    "extension with CR": chunks(b"SIZE;a\rb\r\nDATA\r\n0\r\n\r\n", hides=True),
    "extension with a quoted line end": chunks(b'SIZE;a="\r\n"\r\nDATA\r\n0\r\n\r\n', hides=True),
    "trailer with a length": chunks(b"SIZE\r\nDATA\r\n0\r\ncontent-length: 5\r\n\r\n", hides=True),
    "a request instead of trailers": chunks(b"SIZE\r\nDATA\r\n0\r\n", hides=True),
    # Targets and versions.
    "target with a space": start(b"POST PATH x HTTP/1.1"),
    "tabs in the first line": start(b"POST\tPATH\tHTTP/1.1"),
    "target with bytes outside ASCII": start(b"POST PATH\xff\x85 HTTP/1.1"),
    "target without a slash": start(b"POST v1 HTTP/1.1"),
    "authority as the target": start(b"POST 127.0.0.1:22 HTTP/1.1"),
    "CONNECT": start(b"CONNECT 127.0.0.1:22 HTTP/1.1"),
    "an unknown method": start(b"SMUGGLE PATH HTTP/1.1"),
    "a method in lower case": start(b"post PATH HTTP/1.1"),
    "HTTP/1.2": start(b"POST PATH HTTP/1.2"),
    "HTTP/11": start(b"POST PATH HTTP/11"),
    "http/1.1": start(b"POST PATH http/1.1"),
    "preface of HTTP/2": lambda path, data, hidden: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + hidden,
    "hello of TLS": lambda path, data, hidden: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + hidden,
}

# Unusual, but the length of the body is clear.
READ_AS_ONE: dict[str, Build] = {
    "plain": start(b"POST PATH HTTP/1.1"),
    "chunked": lambda path, data, hidden: head(path, CHUNKED) + chunked(data),
    "many chunks": lambda path, data, hidden: (
        head(path, CHUNKED) + b"".join(b"1\r\n%c\r\n" % byte for byte in data) + b"0\r\n\r\n"
    ),
    "chunk size with zeros": chunks(b"0000000000000000000SIZE\r\nDATA\r\n000\r\n\r\n"),
    "chunk extension": chunks(b'SIZE;a=b;c="d"\r\nDATA\r\n0;e\r\n\r\n'),
    "trailers": chunks(b"SIZE\r\nDATA\r\n0\r\nx-trailer: 1\r\nauthorization: Bearer x\r\n\r\n"),
    "a thousand trailers": chunks(b"SIZE\r\nDATA\r\n0\r\n" + b"x-trailer: 1\r\n" * 1000 + b"\r\n"),
    "CRLF before the request": lambda path, data, hidden: b"\r\n\r\n" + request(path, data),
    "spaces in the first line": start(b"POST  PATH  HTTP/1.1"),
    "absolute target": start(b"POST http://127.0.0.1PATH HTTP/1.1"),
    "absolute target with a user": start(b"POST http://user:word@127.0.0.1PATH HTTP/1.1"),
    "target with a fragment": start(b"POST PATH#part HTTP/1.1"),
    "Expect": lambda path, data, hidden: head(path, b"expect: 200-ok", LENGTH % len(data)) + data,
    "upgrade to HTTP/2": lambda path, data, hidden: (
        head(
            path,
            b"connection: Upgrade, HTTP2-Settings",
            b"upgrade: h2c",
            b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA",
            LENGTH % len(data),
        )
        + data
    ),
    "upgrade to a WebSocket, chunked": lambda path, data, hidden: (
        head(path, b"connection: upgrade", b"upgrade: websocket", CHUNKED) + chunked(data)
    ),
}

READ_AS_TWO: dict[str, Build] = {
    "pipelined": fields(LENGTH),
    "pipelined, chunked": coded(CHUNKED),
    "spaces around the length": fields(b"content-length: \t %d \t "),
    "zeros before the length": fields(b"content-length: 000%d"),
    "CHUNKED": coded(b"TRANSFER-ENCODING: \t CHUNKED  "),
    "TE identity, chunked": coded(b"transfer-encoding: identity, chunked"),
    "after an upgrade": fields(b"connection: upgrade", b"upgrade: h2c", LENGTH),
    "a header similar to CL": fields(LENGTH, b"content_length: 0"),
}

READ_AS_THE_LAST: dict[str, Build] = {
    "HTTP/1.0": fields(LENGTH, version=b"1.0"),
    "HTTP/1.0 with keep-alive": fields(b"connection: keep-alive", LENGTH, version=b"1.0"),
    "HTTP/1.0 with chunks": lambda path, data, hidden: (
        head(path, CHUNKED, version=b"1.0") + chunked(data) + hidden
    ),
    "HTTP/2.0 in words": fields(LENGTH, version=b"2.0"),
    "connection: close": fields(b"connection: close", LENGTH),
}

ATTACKS: list[tuple[str, Build, tuple[str, ...]]] = [
    (name, build, read)
    for table, read in (
        (REFUSED, ()),
        (READ_AS_ONE, ("open", "next")),
        (READ_AS_TWO, ("open", "hidden", "next")),
        (READ_AS_THE_LAST, ("open",)),
    )
    for name, build in table.items()
]
