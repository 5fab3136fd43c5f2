"""Fill an empty database with a big installation: one large team and many small ones, with years of use.

Rows of the small tables are made by the models themselves. For each big table one row is made that way and copied by
PostgreSQL with other keys, teams and times, so new columns need no care here.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from typing import Any

from django.db import connection, models, transaction
from django.utils import timezone

from datasets_app.models import Dataset, DatasetVersion
from deployments.models import Deployment, DeploymentVersion, InferenceRecord
from experiments.hyperparameters import Hyperparameters, config_hash
from experiments.models import Adapter, Experiment, MetricPoint, Run
from portal import tokens
from portal.actors import Actor
from portal.models import AuditEvent, BaseModel, Membership, Node, Role, Scope, Team, User
from portal.rls import all_teams, team_scope

_BATCH = 2_000


@dataclass(frozen=True)
class Size:
    """How much of everything. The first team alone has a quarter of the runs and its share of what hangs on them."""

    teams: int = 200
    users: int = 2_000
    runs: int = 20_000
    metric_points: int = 5_000_000
    usage_rows: int = 5_000_000
    audit_events: int = 200_000

    def divided(self, by: int) -> Size:
        """Return a smaller installation of the same shape."""
        return Size(
            self.teams // by,
            self.users // by,
            self.runs // by,
            self.metric_points // by,
            self.usage_rows // by,
            self.audit_events // by,
        )


@dataclass(frozen=True)
class Seeded:
    """What the measurement starts from: the large team, one of its admins, a platform admin, and a token."""

    team: Team
    admin: User
    operator: User
    token_text: str


def seed(size: Size, progress: Callable[[str], object]) -> Seeded:
    """Fill the database and return where to look."""
    with all_teams("a made-up installation for a measurement"):
        progress(f"{size.teams} teams, {size.users} users")
        teams, users = _people(size)
        base_model = BaseModel.objects.create(
            slug="base",
            name="Base",
            source="local",
            location="base",
            revision="0" * 64,
            parameters=1,
            context_tokens=2048,
            size_bytes=1,
            is_allowed=True,
        )
        Node.objects.create(name="node", slots=2, heartbeat_at=timezone.now() + timedelta(days=1))
        progress(f"{size.runs} runs")
        runs = _runs(size, teams, users, base_model)
        versions = _deployments(teams, runs, base_model)
        actor = Actor(user=users[0], machine="benchmark")
        with team_scope(teams[0].pk):
            _token, text = tokens.create_token(
                team=teams[0], actor=actor, owner=users[0], name="Benchmark", scopes=list(Scope.values)
            )
        _many_tokens(teams, users)
    progress(f"{size.metric_points} metric points")
    _metric_points(size, runs[0])
    progress(f"{size.usage_rows} requests")
    _usage(size, versions[0])
    progress(f"{size.audit_events} audit events")
    _audit(size, teams[0])
    progress("usage by day, statistics")
    _book_usage()
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    return Seeded(teams[0], users[0], users[-1], text)


def _people(size: Size) -> tuple[list[Team], list[User]]:
    teams = [Team(name=f"Team {number:03}", slug=f"team-{number:03}") for number in range(size.teams)]
    users = [User(email=f"person{number}@example.org", name=f"Person {number}") for number in range(size.users)]
    users[-1].is_platform_admin = True
    Team.objects.bulk_create(teams)
    User.objects.bulk_create(users)
    roles = [Role.ADMIN, Role.EDITOR, Role.VIEWER]
    memberships = [
        Membership(team=teams[number % len(teams)], user=user, role=roles[number // len(teams) % 3])
        for number, user in enumerate(users)
    ]
    Membership.unscoped.bulk_create(memberships)
    return teams, users


def _runs(size: Size, teams: list[Team], users: list[User], base_model: BaseModel) -> list[Run]:
    """Make datasets, experiments of twenty runs each, and the runs; the large team's come first."""
    chance, now = random.Random(1), timezone.now()  # noqa: S311 -- no secrets
    large = size.runs // 4
    owners = [teams[0]] * (large // 20) + [
        teams[1 + number % (len(teams) - 1)] for number in range((size.runs - large) // 20)
    ]
    datasets = [Dataset(team=team, name=f"Tickets {number}", created_by=users[0]) for number, team in enumerate(owners)]
    versions = [
        DatasetVersion(
            team=dataset.team,
            dataset=dataset,
            number=1,
            status="ready",
            train_rows=900,
            validation_rows=100,
            report={"fields": []},
            ready_at=now,
        )
        for dataset in datasets
    ]
    experiments = [
        Experiment(team=team, name=f"Experiment {number}", created_by=users[0]) for number, team in enumerate(owners)
    ]
    chosen = Hyperparameters()
    values, digest = chosen.model_dump(mode="json"), config_hash(chosen)
    states = ["succeeded"] * 17 + ["failed", "cancelled", "queued"]
    runs = []
    for experiment, version in zip(experiments, versions, strict=True):
        for number, status in enumerate(states, start=1):
            if status == "queued" and chance.random() > 0.02:
                status = "succeeded"
            queued = now - timedelta(minutes=chance.randrange(200_000))
            ended = None if status == "queued" else queued + timedelta(minutes=30)
            runs.append(
                Run(
                    team=experiment.team,
                    experiment=experiment,
                    number=number,
                    dataset_version=version,
                    base_model=base_model,
                    base_revision="0" * 64,
                    recipe="balanced",
                    hyperparameters=values,
                    config_hash=digest,
                    created_by=users[0],
                    status=status,
                    queued_at=queued,
                    started_at=ended and queued,
                    ended_at=ended,
                    step=300,
                    total_steps=300,
                    gpu_seconds=900,
                )
            )
    Dataset.unscoped.bulk_create(datasets, batch_size=_BATCH)
    DatasetVersion.unscoped.bulk_create(versions, batch_size=_BATCH)
    Experiment.unscoped.bulk_create(experiments, batch_size=_BATCH)
    Run.unscoped.bulk_create(runs, batch_size=_BATCH)
    return runs


def _deployments(teams: list[Team], runs: list[Run], base_model: BaseModel) -> list[DeploymentVersion]:
    """Deploy thirty runs of the large team and two of each other team."""
    wanted = dict.fromkeys((team.pk for team in teams), 2) | {teams[0].pk: 30}
    adapters, deployments, versions = [], [], []
    for run in runs:
        if run.status == "succeeded" and wanted[run.team_id]:
            number = wanted[run.team_id]
            wanted[run.team_id] -= 1
            adapters.append(
                Adapter(team=run.team, run=run, result_of=run, base_model=base_model, step=1, sha256="", size_bytes=1)
            )
            deployments.append(Deployment(team=run.team, name=f"triage-{number}"))
            versions.append(
                DeploymentVersion(team=run.team, deployment=deployments[-1], number=1, adapter=adapters[-1])
            )
    Adapter.unscoped.bulk_create(adapters)
    Deployment.unscoped.bulk_create(deployments)
    DeploymentVersion.unscoped.bulk_create(versions)
    for version in versions:
        version.deployment.live_version = version
    Deployment.unscoped.bulk_update(deployments, ["live_version"])
    return versions


def _many_tokens(teams: list[Team], users: list[User]) -> None:
    """Give every team ten tokens, so that the one that is looked up stands among thousands."""
    for team, user in zip(teams, users, strict=False):
        model = team.apitokens.model
        model.unscoped.bulk_create(
            model(
                team=team,
                name=f"Token {number}",
                key_id=uuid.uuid4().hex[:16],
                digest="0" * 64,
                scopes=["inference"],
                created_by=user,
            )
            for number in range(10)
        )


def _metric_points(size: Size, run: Run) -> None:
    values = {"epoch": 1.0, "loss": 0.5, "learning_rate": 2e-4, "grad_norm": 1.0, "tokens_per_s": 250.0}
    prototype = MetricPoint(team_id=run.team_id, run=run, step=0, values=values)
    steps = max(1, size.metric_points // size.runs)
    _multiply(
        prototype,
        "(SELECT run.id, run.team_id, point AS number"
        " FROM experiments_run AS run, generate_series(1, %s) AS point) AS source",
        [steps],
        {"run_id": "source.id", "team_id": "source.team_id", "step": "source.number"},
    )


def _usage(size: Size, version: DeploymentVersion) -> None:
    prototype = InferenceRecord(
        team_id=version.team_id, version=version, model=version.deployment.name, request_id="req", status=200,
        prompt_tokens=300, completion_tokens=40, duration_ms=900,
    )  # fmt: skip
    _multiply(
        prototype,
        "(SELECT version.id, version.team_id, request AS number FROM generate_series(1, %s) AS request JOIN"
        " (SELECT id, team_id, row_number() OVER (ORDER BY id) - 1 AS place, count(*) OVER () AS all_of_them"
        "  FROM deployments_deploymentversion) AS version ON version.place = request %% version.all_of_them) AS source",
        [size.usage_rows],
        {
            "version_id": "source.id",
            "team_id": "source.team_id",
            "request_id": "'req_' || source.number",
            "at": "now() - source.number * interval '1.5 seconds'",  # about ninety days
            "duration_ms": "200 + source.number %% 1500",
        },
    )


def _audit(size: Size, team: Team) -> None:
    prototype = AuditEvent(team_id=team.pk, actor="person0@example.org", action="run.submitted", object_type="run")
    _multiply(
        prototype,
        "(SELECT id AS team_id, event AS number FROM portal_team, generate_series(1, %s) AS event) AS source",
        [size.audit_events // size.teams],
        {
            "id": "gen_random_uuid()",
            "team_id": "source.team_id",
            "at": "now() - source.number * interval '7 minutes'",
            "object_name": "'Experiment #' || source.number",
        },
    )


def _multiply(prototype: models.Model, source: str, arguments: list[Any], changes: dict[str, str]) -> None:
    """Insert one copy of `prototype` for each row of the SQL `source`, with `changes`: column → SQL expression."""
    meta, quote = prototype._meta, connection.ops.quote_name
    columns, expressions, values = [], [], []
    for field in meta.concrete_fields:
        column = str(field.column)
        if column in changes:
            expressions.append(changes[column])
        elif field.primary_key:
            continue
        else:
            # What the model itself would write: defaults, times and JSON included.
            expressions.append("%s")
            values.append(field.get_db_prep_save(field.pre_save(prototype, add=True), connection=connection))
        columns.append(quote(column))
    into = f"INSERT INTO {quote(meta.db_table)} ({', '.join(columns)})"
    statement = f"{into} SELECT {', '.join(expressions)} FROM {source}"  # noqa: S608 -- our own words
    with all_teams("a made-up installation for a measurement"), connection.cursor() as cursor:
        indexes = _drop_what_slows_inserts(cursor, meta.db_table)
        cursor.execute(statement, [*values, *arguments])
        for definition in indexes:
            cursor.execute(definition)


def _drop_what_slows_inserts(cursor: Any, table: str) -> list[str]:
    """Drop foreign keys (copies of a checked row need no check) and plain indexes; return how these are made again."""
    quote = connection.ops.quote_name
    cursor.execute("SELECT conname FROM pg_constraint WHERE conrelid = %s::regclass AND contype = 'f'", [table])
    for (name,) in cursor.fetchall():
        cursor.execute(f"ALTER TABLE {quote(table)} DROP CONSTRAINT {quote(name)}")
    cursor.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid = %s::regclass AND NOT indisunique",
        [table],
    )
    found = cursor.fetchall()
    for name, _definition in found:
        cursor.execute(f"DROP INDEX {name}")
    return [definition for _name, definition in found]


def _book_usage() -> None:
    """Sum up by days what runs and requests took, as the migrations do that brought the ledger."""
    for name in (
        "experiments.migrations.0005_gpu_time_ledger",
        "deployments.migrations.0004_earlier_requests_in_the_ledger",
    ):
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(import_module(name).EARLIER)
