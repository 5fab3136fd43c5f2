"""How much of a file we are willing to read."""

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True)
class Limits:
    """Bounds of one import. Every `_bytes` counts bytes as they are stored in the file."""

    max_bytes: int = 512 * MIB
    # What a compressed or a typed file may become as text.
    max_unpacked_bytes: int = 4096 * MIB
    max_rows: int = 2_000_000
    max_columns: int = 200
    max_cell_bytes: int = MIB
    # A row may hold several long cells, so it is allowed more than one cell is.
    max_row_bytes: int = 4 * MIB
    # So many lines in one row mean a quote that was never closed.
    max_row_lines: int = 10_000
    max_prompt_characters: int = 200_000
    max_answer_characters: int = 32_000
    # Faults beyond this number are counted, not kept.
    max_faults: int = 1_000
    max_json_depth: int = 64


DEFAULT_LIMITS = Limits()
