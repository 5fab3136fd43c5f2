"""Rows for tests of runs: a ready dataset version without an import, runs in each state, and what was queued."""

from __future__ import annotations

import json
import struct
import uuid
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from django.utils import timezone
from django_q.models import OrmQ

from datasets_app.models import Dataset, DatasetVersion, Split
from datasets_app.rows import CanonicalRow
from datasets_app.store import WrittenRows, content_hash, read_rows, write_rows
from experiments import services
from experiments.leases import Lease
from experiments.models import Run
from portal.actors import Actor
from portal.models import BaseModel, Node, Team
from portal.rls import all_teams


def make_version(team: Team, *, train: int = 12, validation: int = 4, test: int = 0, name: str = "") -> DatasetVersion:
    """A ready version whose files lie where an import would have put them."""
    counts = {Split.TRAIN: train, Split.VALIDATION: validation, Split.TEST: test}
    with all_teams("test"):
        dataset = Dataset(team=team, name=name or f"Tickets {uuid.uuid4().hex[:6]}")
        dataset.save()
        version = DatasetVersion(team=team, dataset=dataset, number=1, status=DatasetVersion.Status.READY)
        version.folder.mkdir(parents=True)
        written = {}
        for split, count in counts.items():
            if count:
                written[split.value] = _write_rows(version.rows_path(split), count, first_id=1 + version.total_rows)
                setattr(version, f"{split.value}_rows", count)
        version.content_hash = content_hash(written)
        version.save()
    return version


def _write_rows(path: Path, count: int, first_id: int) -> WrittenRows:
    rows = []
    for number in range(count):
        answer = json.dumps({"service": ("VPN", "Mail")[number % 2]})
        messages = ({"role": "user", "content": f"Ticket {number}"}, {"role": "assistant", "content": answer})
        rows.append(CanonicalRow(number + 2, messages, first_id + number))
    return write_rows(path, rows)


def change_rows(path: Path, service: str, *, again: bool = False) -> None:
    """Write other rows in place of those that were imported: with another answer, or with the last one twice."""
    rows = list(read_rows(path))
    for number, row in enumerate(rows):
        answer = {"role": "assistant", "content": row.answer.replace("VPN", service)}
        rows[number] = replace(row, messages=(*row.messages[:-1], answer))
    write_rows(path, rows + rows[-1:] if again else rows)


def submit(team: Team, actor: Actor, version: DatasetVersion, base_model: BaseModel, **choice: object) -> Run:
    """A queued run in an experiment of its own."""
    with all_teams("test"):
        return services.start_experiment(
            team=team,
            actor=actor,
            name=str(choice.pop("name", "") or uuid.uuid4().hex[:8]),
            dataset_version=version,
            base_model=base_model,
            **{"recipe": "fast", **choice},  # type: ignore[arg-type]
        )


def put_to_work(run: Run, node: Node | None, *, status: str = "running", slot: int = 0) -> Lease:
    """Bring a run into an active state under a lease of 60 s and return the lease."""
    lease = Lease(run.pk, uuid.uuid4())
    change(
        run,
        status=status,
        node=node,
        slot=slot,
        attempt=max(run.attempt, 1),
        started_at=timezone.now(),
        lease_token=lease.token,
        lease_until=timezone.now() + timedelta(seconds=60),
    )
    return lease


def change(run: Run, **fields: object) -> None:
    """Write columns of a run past every rule, and bring `run` up to date."""
    with all_teams("test"):
        Run.unscoped.filter(pk=run.pk).update(**fields)
    fresh(run)


def let_lease_run_out(run: Run) -> None:
    """Make the lease of a run end a second ago."""
    change(run, lease_until=timezone.now() - timedelta(seconds=1))


def fresh(run: Run) -> Run:
    """Bring a run up to date."""
    with all_teams("test"):
        run.refresh_from_db()
    return run


def queued_tasks() -> list[tuple[str, str, tuple[str, ...]]]:
    """Return (cluster, function, arguments) of every message in the queue, oldest first."""
    rows = OrmQ.objects.order_by("id")
    return [(row.key, row.task["func"], tuple(row.task["args"])) for row in rows]


def write_adapter(folder: Path, *, filling: bytes = b"\x01\x02\x03\x04") -> Path:
    """Write the smallest folder that is a whole adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1}')
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + filling)
    return folder
