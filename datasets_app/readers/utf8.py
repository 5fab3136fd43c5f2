"""Check a whole file for being UTF-8, counting the lines that are not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

BLOCK_BYTES: Final = 1 << 20
SAMPLE_BYTES: Final = 1 << 14


@dataclass
class Utf8Scan:
    """How well a file reads as UTF-8, in lines. `bad_sample` holds the first lines that do not."""

    lines: int = 0
    bad_lines: int = 0
    good_foreign_lines: int = 0
    first_bad_line: int | None = None
    bad_sample: bytes = b""

    @property
    def is_plausible(self) -> bool:
        """Whether the file is UTF-8 with at most a few damaged lines.

        Text in another encoding almost never forms valid UTF-8 beyond ASCII, so lines that do outweigh bad ones.
        """
        return self.bad_lines <= self.good_foreign_lines or self.bad_lines * 100 <= self.lines


def scan_utf8(path: Path, line_end: bytes) -> Utf8Scan:
    """Read the whole file in constant memory and return how many of its lines are not UTF-8."""
    scan = Utf8Scan()
    with path.open("rb") as file:
        for block in _blocks(file, line_end):
            _count(scan, block, line_end)
    return scan


def _blocks(file: BinaryIO, line_end: bytes) -> Iterator[bytes]:
    """Yield the file in blocks that end where a line ends, or at least between two characters."""
    rest = b""
    while piece := file.read(BLOCK_BYTES):
        block = rest + piece
        cut = block.rfind(line_end) + 1 or _character_start(block)
        rest = block[cut:]
        yield block[:cut]
    yield rest


def _character_start(block: bytes) -> int:
    """Return where the last character of a block begins: a character has at most three continuation bytes."""
    for cut in range(len(block) - 1, max(len(block) - 5, 0), -1):
        if block[cut] & 0xC0 != 0x80:
            return cut
    return len(block)


def _count(scan: Utf8Scan, block: bytes, line_end: bytes) -> None:
    first_line = scan.lines + 1
    scan.lines += block.count(line_end)
    if block.isascii():
        return
    lines = block.split(line_end)
    if _is_utf8(block):
        scan.good_foreign_lines += sum(not line.isascii() for line in lines)
        return
    foreign = [(number, line) for number, line in enumerate(lines, first_line) if not line.isascii()]
    bad = [(number, line) for number, line in foreign if not _is_utf8(line)]
    scan.good_foreign_lines += len(foreign) - len(bad)
    scan.bad_lines += len(bad)
    if bad and scan.first_bad_line is None:
        scan.first_bad_line = bad[0][0]
    for _, line in bad:
        if len(scan.bad_sample) >= SAMPLE_BYTES:
            break
        scan.bad_sample += line[:SAMPLE_BYTES].rstrip(b"\r") + b"\n"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
