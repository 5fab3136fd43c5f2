"""What a capped child does to examine a version: files in, a report as JSON out. Knows no database."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datasets_app.doctor.examine import examine
from datasets_app.doctor.options import Options
from datasets_app.doctor_reports.excerpts import write_excerpts


def examine_rows(
    say: Callable[[dict[str, Any]], None],
    *,
    folder: str,
    rows_paths: Mapping[str, str],
    tokenizer_folder: str | None,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Examine the rows of some files and return the report; `say` hears the share that is done."""
    paths = {split: Path(path) for split, path in rows_paths.items()}
    report = examine(
        Path(folder),
        paths,
        Path(tokenizer_folder) if tokenizer_folder else None,
        Options.from_dict(options),
        lambda share: say({"share": share}),
    )
    write_excerpts(Path(folder), paths, report)
    return report.to_dict()
