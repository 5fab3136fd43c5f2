"""One measurement of the benchmark of imports, in a process of its own; prints its figures as JSON.

`read SUBJECT TABLE FOLDER` reads (or imports) a table; `pages FOLDER` asks for pages of the rows imported there.
"""

import csv
import json
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

REPEATS: Final = 20


def main() -> None:
    """Do what the arguments say."""
    what, *arguments = sys.argv[1:]
    found = _read(*arguments) if what == "read" else _pages(Path(arguments[0]))
    print(json.dumps(found), flush=True)


def _read(subject: str, table: str, folder: str) -> dict[str, Any]:
    read: dict[str, Callable[[], int]] = {
        "csv": lambda: _csv(table),
        "pandas": lambda: _pandas(table),
        "pyarrow": lambda: _pyarrow(table),
        "tuneport": lambda: _tuneport(Path(table), Path(folder)),
    }
    begun = time.monotonic()
    rows = read[subject]()
    wall_s = time.monotonic() - begun
    # The import works in a child of its own; the others in this very process.
    is_child = subject == "tuneport"
    used = resource.getrusage(resource.RUSAGE_CHILDREN if is_child else resource.RUSAGE_SELF)
    return {
        "rows": rows,
        "wall_s": wall_s,
        "cpu_s": used.ru_utime + used.ru_stime,
        "resident_mb": used.ru_maxrss / 1024 if is_child else _own_peak_mb(),
    }


def _own_peak_mb() -> float:
    """Return the most memory that this process has held; its `ru_maxrss` would count what its parent held too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def _csv(table: str) -> int:
    with Path(table).open(encoding="utf-8", newline="") as file:
        return sum(1 for _row in csv.reader(file)) - 1


def _pandas(table: str) -> int:
    import pandas

    return len(pandas.read_csv(table))


def _pyarrow(table: str) -> int:
    import pyarrow.csv

    options = pyarrow.csv.ParseOptions(newlines_in_values=True)
    return int(pyarrow.csv.read_csv(table, parse_options=options).num_rows)


def _tuneport(table: Path, folder: Path) -> int:
    from datasets_app.conversion import Source, convert
    from datasets_app.demo_tickets import MAPPING
    from datasets_app.readers import DEFAULT_LIMITS
    from datasets_app.splits import SplitPlan

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    source = Source("train", table.name, table, "", "", table.stat().st_size)
    made = convert(
        [source],
        MAPPING,
        folder,
        skip_faulty=False,
        plan=SplitPlan(),
        limits=DEFAULT_LIMITS,
        beat=lambda rows, size_bytes: None,
    )
    told = {"rows": dict(made.rows), "report": dict(made.report), "size_bytes": made.size_bytes}
    (folder / "made.json").write_text(json.dumps(told))
    return sum(made.rows.values())


def _pages(folder: Path) -> dict[str, Any]:
    import django

    django.setup()
    from django.conf import settings
    from django.core.management import call_command
    from django.test import Client

    call_command("migrate", interactive=False, verbosity=0)
    call_command("createcachetable", verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    settings.ALLOWED_HOSTS = [*settings.ALLOWED_HOSTS, "testserver"]
    made = json.loads((folder / "made.json").read_text())
    person, version = _version(folder, made)
    client = Client()
    client.force_login(person)
    address = f"/t/{version.team.slug}/dataset-versions/{version.pk}/"
    last = made["rows"]["train"] // 20
    asked = {
        "first page": address,
        "a page in the middle": f"{address}?page={last // 2}",
        "last page": f"{address}?page={last}",
        "first page, as the model sees it": f"{address}?view=model",
    }
    return {
        "stored_mb": made["size_bytes"] / 1e6,
        "pages": {name: _milliseconds(client, where) for name, where in asked.items()},
    }


def _version(folder: Path, made: dict[str, Any]) -> tuple[Any, Any]:
    """Put the imported rows where a version's rows lie; return a member of the team and the version."""
    from datasets_app.models import DatasetVersion
    from portal.models import Membership, Role, Team, User
    from portal.rls import all_teams

    with all_teams("a benchmark in a database of its own"):
        person = User.objects.create_user(email="person@example.org", password=None)
        team = Team.objects.create(name="Benchmark", slug="benchmark")
        Membership(team=team, user=person, role=Role.ADMIN).save()
        dataset = team.datasets.create(name="A million tickets")
        counts = {f"{split}_rows": count for split, count in made["rows"].items()}
        version = team.datasetversions.create(
            dataset=dataset,
            number=1,
            status=DatasetVersion.Status.READY,
            report=made["report"],
            size_bytes=made["size_bytes"],
            **counts,
        )
        version.folder.mkdir(parents=True)
        for split in made["rows"]:
            shutil.copyfile(folder / f"{split}.parquet", version.rows_path(split))
    return person, version


def _milliseconds(client: Any, address: str) -> tuple[float, float]:
    """Return median and 95th percentile of asking for a page."""
    taken = []
    for number in range(REPEATS + 2):
        begun = time.perf_counter()
        answer = client.get(address)
        if answer.status_code != 200:
            raise SystemExit(f"{address} answered {answer.status_code}")
        if number > 1:
            taken.append((time.perf_counter() - begun) * 1000)
    return statistics.median(taken), statistics.quantiles(taken, n=20)[-1]


if __name__ == "__main__":
    main()
