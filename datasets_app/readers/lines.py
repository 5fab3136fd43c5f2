"""Bytes of a file as bounded, numbered lines that end in a line feed."""

import codecs
import io
from collections import deque
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Literal

UTF8_BOM: Final = codecs.BOM_UTF8
BUFFER_BYTES: Final = 1 << 18

LineEnd = Literal["\n", "\r"]


class LineTooLong(Exception):
    """A line exceeds the limit; the rest of it has been skipped. `start` is its first part."""

    def __init__(self, number: int, start: bytes) -> None:
        super().__init__(number)
        self.number = number
        self.start = start


class _Utf16AsUtf8(io.RawIOBase):
    """A UTF-16 file seen as UTF-8 bytes; what is broken in it stays broken, so the line decoder reports it."""

    def __init__(self, raw: io.BufferedReader, encoding: str) -> None:
        self._raw = raw
        if encoding == "utf-16" and not raw.peek(2).startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            # Python demands the mark; Windows, where such files come from, is little-endian.
            encoding = "utf-16-le"
        # "surrogatepass" keeps a lone surrogate as three bytes that no UTF-8 decoder accepts.
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogatepass")
        self._ready = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self._ready and not self._ended:
            block = self._raw.read(BUFFER_BYTES)
            self._ended = not block
            self._ready = self._recode(block)
        taken = self._ready[: len(buffer)]
        self._ready = self._ready[len(taken) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def _recode(self, block: bytes) -> bytes:
        try:
            return self._decoder.decode(block, final=not block).encode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            # Half a code unit at the end of the file: one byte that is never valid UTF-8.
            self._ended = True
            return b"\xff"

    def close(self) -> None:
        self._raw.close()
        super().close()


class _CarriageReturnsAsLineFeeds(io.RawIOBase):
    """A file of classic Mac OS, which ends lines with CR alone, seen with line feeds."""

    def __init__(self, raw: io.BufferedReader) -> None:
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        block = self._raw.read(len(buffer)).replace(b"\r", b"\n")
        buffer[: len(block)] = block
        return len(block)

    def close(self) -> None:
        self._raw.close()
        super().close()


def is_utf16(encoding: str) -> bool:
    """Tell whether the encoding is a form of UTF-16, which lines cannot be cut out of bytewise."""
    return encoding.startswith("utf-16")


class LineReader:
    """Read the lines of a file one by one as bytes of at most `max_line_bytes`, first line = 1.

    Lines that were read may be handed back, to be read a second time. Use as a context manager.
    """

    def __init__(self, path: Path, *, encoding: str, line_end: LineEnd, max_line_bytes: int) -> None:
        self.number = 0
        self._last_position_bytes = 0
        self._max_line_bytes = max_line_bytes
        self._given_back: deque[bytes] = deque()
        self._file = path.open("rb")
        stream: io.BufferedReader = self._file
        if is_utf16(encoding):
            stream = io.BufferedReader(_Utf16AsUtf8(stream, encoding), BUFFER_BYTES)
        if line_end == "\r":
            stream = io.BufferedReader(_CarriageReturnsAsLineFeeds(stream), BUFFER_BYTES)
        self._stream = stream
        self._skip_mark()

    def __enter__(self) -> "LineReader":
        return self

    def __exit__(self, *exception: object) -> None:
        self._last_position_bytes = self._file.tell()
        self._stream.close()
        self._file.close()

    @property
    def position_bytes(self) -> int:
        """How many bytes of the file have been consumed, buffering included."""
        return self._last_position_bytes if self._file.closed else self._file.tell()

    def __iter__(self) -> Iterator[bytes]:
        """Yield line after line, each with its line feed.

        Raises: LineTooLong, after which a new iterator goes on with the next line.
        """
        readline, limit = self._stream.readline, self._max_line_bytes
        while True:
            again = bool(self._given_back)
            line = self._given_back.popleft() if again else readline(limit + 1)
            if not line:
                return
            self.number += 1
            if len(line) > limit and not again:
                self._skip_rest(line)
                raise LineTooLong(self.number, line)
            yield line

    def read(self) -> bytes:
        """Return the next line, or b"" at the end of the file. Raises: LineTooLong."""
        return next(iter(self), b"")

    def give_back(self, lines: Iterable[bytes]) -> None:
        """Put the lines that were read last back, in their order, to be read again."""
        kept = list(lines)
        self._given_back.extendleft(reversed(kept))
        self.number -= len(kept)

    def _skip_mark(self) -> None:
        # peek may return less than asked for, but never less than a mark unless the file is that short.
        if self._stream.peek(len(UTF8_BOM)).startswith(UTF8_BOM):
            self._stream.read(len(UTF8_BOM))

    def _skip_rest(self, piece: bytes) -> None:
        while piece and not piece.endswith(b"\n"):
            piece = self._stream.readline(self._max_line_bytes + 1)
