"""Measure peers and ourselves on the same work in one run, and write the table into docs/benchmarks.md."""

from __future__ import annotations

import importlib
import os
import platform
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.base_models import EMBEDDED_SLUG

KINDS = (
    "training",
    "recipes",
    "preflight",
    "serving",
    "agreement",
    "schemas",
    "proxy",
    "pages",
    "doctor",
    "imports",
    "soak",
)
# those that have to be installed first, or take long
PEERS = {
    "training": ("llamafactory",),
    "serving": ("transformers-batching", "llamacpp", "openvino", "vllm"),
    "proxy": ("litellm",),
}
_HEAD = """# Benchmarks

Written by `manage.py benchmark`; no figure is typed by hand. Ratios within one table are the sound part.
"""


class Command(BaseCommand):
    """`manage.py benchmark KIND [--rows FILE]` replaces the section of the kind in docs/benchmarks.md."""

    help = "Measure us and our peers, or our pages over a big database, and write the result into docs/benchmarks.md."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("kind", choices=KINDS)
        parser.add_argument("--rows", type=Path, help="a table in the import format; by default demo tickets")
        parser.add_argument("--data", type=Path, dest="rows", help="the same as --rows")
        choices = [peer for peers in PEERS.values() for peer in peers]
        listed = "; ".join(f"{kind}: {', '.join(peers)}" for kind, peers in PEERS.items())
        parser.add_argument("--peers", nargs="*", default=[], choices=choices, help=f"also measure these ({listed})")
        parser.add_argument(
            "--test", type=Path, help="recipes, preflight: a table in the import format that is only asked"
        )
        parser.add_argument(
            "--subjects",
            nargs="*",
            default=[],
            help="recipes, preflight: such as balanced@2000, best@all,learning_rate=0.002",
        )
        parser.add_argument("--minutes", type=float, help="soak: how long; by default 30")
        parser.add_argument("--seed", type=int, help="soak: of what is asked and who is killed")
        parser.add_argument("--tiny", action="store_true", help="soak: a model of two layers instead of the real one")
        parser.add_argument("--quick", action="store_true", help="few steps, to see that it works; writes nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run one benchmark and write its section."""
        rows: Path | None = options["rows"]
        if rows is not None and not rows.is_file():
            raise CommandError(f"There is no file '{rows}'.")
        foreign = set(options["peers"]).difference(PEERS.get(options["kind"], ()))
        if foreign:
            raise CommandError(f"The {options['kind']} benchmark has no peer {', '.join(sorted(foreign))}.")
        if (options["test"] or options["subjects"]) and options["kind"] not in ("recipes", "preflight"):
            raise CommandError("Only the benchmarks of recipes and of trials have test rows and subjects to choose.")
        if (options["minutes"] or options["seed"] or options["tiny"]) and options["kind"] != "soak":
            raise CommandError("Only the soak has minutes, a seed and a tiny model to choose.")
        module = importlib.import_module(f"gpu_worker.benchmarks.{options['kind']}")
        model = Path(settings.DATA_DIR) / "models" / EMBEDDED_SLUG
        try:
            more = {
                name: options[name]
                for name in ("peers", "test", "subjects", "minutes", "seed", "tiny")
                if options[name]
            }
            section = module.run(rows=rows, model_dir=model, quick=options["quick"], progress=self.stdout.write, **more)
        except RuntimeError as error:
            raise CommandError(str(error)) from error
        self.stdout.write(section)
        if not options["quick"]:
            path = Path(settings.BASE_DIR) / "docs" / "benchmarks.md"
            write_section(path, options["kind"], f"{section.strip()}\n\n{_machine()}")
            self.stdout.write(f"written to docs/{path.name}")


def write_section(path: Path, kind: str, text: str) -> None:
    """Replace the part of the page between the markers of `kind`, or add it at the end."""
    begin, end = f"<!-- benchmark:{kind}:begin -->", f"<!-- benchmark:{kind}:end -->"
    page = path.read_text() if path.exists() else _HEAD
    block = f"{begin}\n{text}\n{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    page = pattern.sub(lambda _match: block, page) if pattern.search(page) else f"{page.rstrip()}\n\n{block}\n"
    path.write_text(page)


def _machine() -> str:
    """Return one line that says on what and when the figures were measured."""
    cores = os.cpu_count() or 0
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return f"*{day}, {cores} cores, {platform.machine()}, Python {platform.python_version()}.*"
