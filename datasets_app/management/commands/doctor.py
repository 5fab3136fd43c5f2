"""`manage.py doctor FILE`: import tables into a temporary folder, examine the rows and print the report."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.translation import gettext

from datasets_app.capped import run_capped
from datasets_app.conversion import Source, SourceRefused, convert
from datasets_app.doctor.report import Report
from datasets_app.doctor.text import as_markdown
from datasets_app.doctor_reports import examination
from datasets_app.mapping import guess_mapping
from datasets_app.readers import DEFAULT_LIMITS, DataError, open_table
from datasets_app.sources import SAMPLE_ROWS
from datasets_app.splits import SplitPlan
from portal.models import BaseModel


class Command(BaseCommand):
    """Examine tables without making a dataset of them; nothing is kept."""

    help = "Examine tables (CSV, TSV or JSON Lines) as the dataset doctor does, and print the report as Markdown."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("train", type=Path, help="a table; divided into splits unless others are given")
        parser.add_argument("--validation", type=Path, help="a table of validation rows")
        parser.add_argument("--test", type=Path, help="a table of test rows")
        parser.add_argument("--base-model", help="slug or folder of the base model whose tokens are counted")
        parser.add_argument("--max-length", type=int, default=1024, help="tokens from which a row counts as too long")

    def handle(self, *args: Any, **options: Any) -> None:
        """Import, examine, print."""
        files = {split: options[split] for split in ("train", "validation", "test") if options[split]}
        for path in files.values():
            if not path.is_file():
                raise CommandError(f"There is no file '{path}'.")
        model = _model_folder(options["base_model"])
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            try:
                skipped = _import(files, folder)
                report = _examine(folder, model, {"max_length": options["max_length"]})
            except SourceRefused as refused:
                raise CommandError(f"{refused.source.name}: {refused}") from refused
            except DataError as error:
                raise CommandError(error.message) from error
        if skipped:
            self.stdout.write(f"Faulty rows, which were left out: {skipped:,}.")
        self.stdout.write(as_markdown(report, gettext))


def _model_folder(slug: str | None) -> Path | None:
    if not slug or Path(slug).is_dir():
        return Path(slug).resolve() if slug else None
    model = BaseModel.objects.filter(slug=slug).first()
    if model is None:
        raise CommandError(f"There is no base model '{slug}'; `manage.py basemodels` lists them.")
    return Path(model.folder)


def _import(files: dict[str, Path], folder: Path) -> int:
    """Write the canonical rows of the files; return how many rows were faulty."""
    table = open_table(files["train"])
    mapping = guess_mapping(table.columns, table.sample(SAMPLE_ROWS))
    sources = [
        Source(split, path.name, path.resolve(), encoding="", delimiter="", size_bytes=path.stat().st_size)
        for split, path in files.items()
    ]
    made = convert(
        sources,
        mapping,
        folder,
        skip_faulty=True,
        plan=SplitPlan(),
        limits=DEFAULT_LIMITS,
        beat=lambda _rows, _bytes: None,
    )
    return int(made.report.get("fault_count", 0))


def _examine(folder: Path, model: Path | None, options: dict[str, Any]) -> Report:
    paths = {path.stem: str(path) for path in folder.glob("*.parquet")}
    found = run_capped(
        examination.WORK,
        {
            "folder": str(folder),
            "rows_paths": paths,
            "tokenizer_folder": str(model) if model else None,
            "options": options,
        },
        memory_bytes=examination.MEMORY_BYTES,
        cpu_seconds=examination.CPU_SECONDS,
    )
    return Report.from_dict(found)
