"""HTTP/1.1 as a client of engines needs it: the bytes of a request, and a reader of responses as they arrive.

It does no input or output. What it does not understand ends the connection; whatever is ambiguous about where a
response ends keeps the connection from being used again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum

MAX_HEAD_BYTES = 64 * 1024
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: [^\r\n]*)?\Z")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?\Z", re.DOTALL)
_LINE_END = re.compile(r"[\r\n\0]")


class Malformed(Exception):
    """This is no HTTP response, or it ended before its time."""


class Awaiting(Enum):
    """What a reader says that can go no further."""

    BYTES = "bytes"


BYTES = Awaiting.BYTES


class _Body(Enum):
    LENGTH = "length"
    CHUNKS = "chunks"
    UNTIL_CLOSE = "until close"


def request_bytes(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a whole request. Raises: ValueError for a line break in a header."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    if any(_LINE_END.search(line) for line in lines):
        raise ValueError("a header holds a line break")
    return "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode("latin-1") + body


class ResponseReader:
    """One response to a request that has a body in its answer: `feed` it bytes, ask for the head, then for parts."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_done = False
        self._keeps = True
        self._body = _Body.LENGTH
        self._left = 0  # bytes of the body, or of the chunk, that are yet to come
        self._in_chunks = False
        self._buffer = b""
        self._is_closed = False

    @property
    def is_reusable(self) -> bool:
        """Whether the response is over, nothing followed it, and the connection stays open."""
        return self.is_done and self._keeps and not self._buffer and not self._is_closed

    def feed(self, received: bytes) -> None:
        """Take what has arrived; nothing: the other side has closed."""
        if not received:
            self._is_closed = True
        self._buffer = self._buffer + received if self._buffer else received

    def head(self) -> Awaiting | None:
        """Read status and headers; None once they are here. Raises: Malformed."""
        while True:
            block, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                if self._is_closed or len(block) > MAX_HEAD_BYTES:
                    raise Malformed("no head of a response")
                if block and not b"HTTP/1.".startswith(block[:7]):
                    raise Malformed("this is no HTTP")
                return BYTES
            self._buffer = rest
            self._read_head(block)
            if self.status >= 200:
                return None

    def part(self) -> bytes | Awaiting | None:
        """Return the next bytes of the body, None at its end. Raises: Malformed."""
        if self.is_done:
            return None
        if self._body is _Body.CHUNKS and not self._left and (waits := self._next_chunk()):
            return waits
        if self.is_done or (self._body is _Body.LENGTH and not self._left):
            self.is_done = True
            return None
        if not self._buffer:
            return self._nothing_left()
        if self._body is _Body.UNTIL_CLOSE:
            taken, self._buffer = self._buffer, b""
            return taken
        taken, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        self._left -= len(taken)
        return taken

    def _nothing_left(self) -> Awaiting | None:
        if not self._is_closed:
            return BYTES
        if self._body is _Body.UNTIL_CLOSE:
            self.is_done = True
            return None
        raise Malformed("the response ended within its body")

    def _next_chunk(self) -> Awaiting | None:
        """Read the line that says how long the next chunk is, after the line end of the one before."""
        if self._in_chunks:
            if len(self._buffer) < 2:
                return self._wait()
            if not self._buffer.startswith(b"\r\n"):
                raise Malformed("a chunk does not end where it should")
        start = 2 if self._in_chunks else 0
        end = self._buffer.find(b"\r\n", start)
        if end < 0:
            return self._wait()
        size = _SIZE.match(self._buffer[start:end])
        if size is None:
            raise Malformed("a chunk has no size")
        length = int(size[1], 16)
        if not length:
            return self._end_of_chunks(end)
        self._left, self._in_chunks, self._buffer = length, True, self._buffer[end + 2 :]
        return None

    def _end_of_chunks(self, end: int) -> Awaiting | None:
        """Read past the trailers, which nobody needs."""
        if self._buffer.startswith(b"\r\n", end + 2):
            self._buffer = self._buffer[end + 4 :]
        else:
            behind = self._buffer.find(b"\r\n\r\n", end)
            if behind < 0:
                return self._wait()
            self._buffer = self._buffer[behind + 4 :]
        self.is_done = True
        return None

    def _wait(self) -> Awaiting:
        if self._is_closed or len(self._buffer) > MAX_HEAD_BYTES:
            raise Malformed("the response ended within its body")
        return BYTES

    def _read_head(self, block: bytes) -> None:
        first, *lines = block.split(b"\r\n")
        status = _STATUS.match(first)
        if status is None:
            raise Malformed("this is no HTTP")
        self.status = int(status[2])
        self.headers = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not _NAME.match(name):
                raise Malformed("a header has no name")
            key, known = name.decode("ascii").lower(), value.strip().decode("latin-1")
            if key == "content-length" and self.headers.get(key, known) != known:
                raise Malformed("two lengths")
            self.headers[key] = known
        self._keeps = status[1] == b"1" and "close" not in self.headers.get("connection", "").lower()
        if self.status >= 200:  # what comes before the response has no body
            self._choose_body()

    def _choose_body(self) -> None:
        coding, length = self.headers.get("transfer-encoding"), self.headers.get("content-length")
        if self.status in (204, 304):
            return
        if coding is not None:
            if coding.lower() != "chunked":
                raise Malformed("an unknown transfer encoding")
            self._body = _Body.CHUNKS
            self._keeps = self._keeps and length is None
        elif length is not None:
            if not length.isascii() or not length.isdigit() or len(length) > 18:
                raise Malformed("a length that is none")
            self._left = int(length)
        else:
            self._body, self._keeps = _Body.UNTIL_CLOSE, False
