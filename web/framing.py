"""uvicorn's HTTP protocol, with two things put right that it takes from its parser as they come.

* **Trailers** of a chunked body are not headers (RFC 9110, 6.5.1): they are dropped. uvicorn adds them
  to the headers of a request that comes all at once, past whatever has checked those on the way here.
* **An upgrade** that is not offered is not taken (RFC 9110, 7.8): the request is read as if it had not
  asked. The parser leaves out the body of such a request, and all that follows on the connection, as
  belonging to another protocol; Java's client asks for ``h2c`` with every first request.
"""

from __future__ import annotations

from collections import deque

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class FramingProtocol(HttpToolsProtocol):
    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as exc:
            self._read_without_upgrade(data[exc.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("Invalid HTTP request received.")

    def _read_without_upgrade(self, rest: bytes) -> None:
        """Read the request whose head has just come, and the *rest* after it, with a parser anew."""
        line = (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        # What comes out of the parser has no line ends in it.
        fields = [b"%b: %b\r\n" % field for field in self.headers if field[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.data_received(b"%b %b HTTP/%b\r\n" % line + b"".join(fields) + b"\r\n" + rest)

    def _asks_for_upgrade(self) -> bool:
        # CONNECT counts as an upgrade too; its target is no path, which is an error like any other.
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def on_headers_complete(self) -> None:
        if not self._asks_for_upgrade():
            super().on_headers_complete()
            # What comes now are trailers; the request has the list of its headers.
            self.headers = deque(maxlen=0)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        if not self._asks_for_upgrade():
            super().on_message_complete()
