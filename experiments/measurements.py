"""Writes what a run reported into the database: facts, metric points, log lines. The caller holds the run's row."""

from __future__ import annotations

import json
import uuid

from django.db import connection

from experiments.models import FirstBatch, RunEvent, RunSample
from experiments.run_events import Digest


def write_digest(run_id: uuid.UUID, team_id: uuid.UUID, news: Digest) -> None:
    """Write everything of `news` that is not a column of the run itself."""
    if news.facts:
        _merge_facts(run_id, news)
    if news.points:
        _upsert_points(run_id, team_id, news)
    if news.first_batch:
        kept = FirstBatch(team_id=team_id, run_id=run_id, rows=news.first_batch)
        FirstBatch.unscoped.bulk_create([kept], ignore_conflicts=True)  # an attempt from the beginning tells it again
    RunSample.unscoped.bulk_create(
        [RunSample(team_id=team_id, run_id=run_id, step=step, rows=rows) for step, rows in news.samples.items()],
        update_conflicts=True,
        unique_fields=["run", "step"],
        update_fields=["rows"],
    )
    RunEvent.unscoped.bulk_create(
        RunEvent(team_id=team_id, run_id=run_id, at=line.at, level=line.level, kind=line.kind, message=line.message)
        for line in news.lines
    )


def _merge_facts(run_id: uuid.UUID, news: Digest) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE experiments_run SET facts = facts || %s::jsonb WHERE id = %s", [json.dumps(news.facts), run_id]
        )


def _upsert_points(run_id: uuid.UUID, team_id: uuid.UUID, news: Digest) -> None:
    """Write metric points, one per run and step; a step that is reported again adds to or corrects what is there.

    A corrected point gets a new id: readers ask for "what came after id n" and would miss it otherwise.
    """
    steps = sorted(news.points)
    with connection.cursor() as cursor:
        cursor.execute(
            """
            INSERT INTO experiments_metricpoint AS known (run_id, team_id, step, "values", at)
            SELECT %s, %s, * FROM unnest(%s::int[], %s::jsonb[], %s::timestamptz[])
            ON CONFLICT (run_id, step) DO UPDATE
            SET id = EXCLUDED.id, "values" = known."values" || EXCLUDED."values", at = EXCLUDED.at
            """,
            [
                run_id,
                team_id,
                steps,
                [json.dumps(news.points[step]) for step in steps],
                [news.measured_at[step] for step in steps],
            ],
        )
