"""The demo team: a person, a token, a dataset of support tickets and an experiment that deploys itself."""

from __future__ import annotations

import tempfile
from pathlib import Path

from django.conf import settings

from datasets_app import demo_tickets
from datasets_app import services as datasets
from datasets_app import tasks as dataset_tasks
from datasets_app.models import DatasetVersion, Split
from experiments import services as experiments
from experiments.models import Run
from portal import base_models, people, teams, tokens
from portal.actors import Actor
from portal.demo import DemoCredentials, write_credentials
from portal.models import BaseModel, Scope, Team
from portal.rls import team_scope

TEAM, EMAIL, DEPLOYMENT = "Demo Support", "demo@tuneport.example", "demo-triage"
SEED, TRAIN_ROWS, VALIDATION_ROWS, TEST_ROWS = 20, 400, 40, 60


def seed_demo(*, start_run: bool) -> DemoCredentials:
    """Create the demo team with everything a first look needs; credentials are random for each installation.

    Raises: PortalError if the team exists already or the embedded base model is not registered.
    """
    owner, _is_new = teams.find_or_invite_person(EMAIL)
    owner.name = "Demo"
    owner.save(update_fields=["name"])
    password = people.first_password(owner)
    actor = Actor(user=owner, machine="seed_demo")
    if not settings.PRODUCTION:  # so that a first look shows the console, too
        people.set_platform_admin(person=owner, is_admin=True, actor=actor)
    team = teams.create_team(name=TEAM, owner=owner, actor=actor)
    with team_scope(team.pk):
        _token, text = tokens.create_token(
            team=team, actor=actor, owner=owner, name="Demo token", scopes=list(Scope.values)
        )
    version = _import_tickets(team, actor)
    if start_run:
        _start_run(team, actor, version)
    credentials = DemoCredentials(url="", email=EMAIL, password=password, team=team.slug, api_token=text)
    write_credentials(credentials)
    return credentials


def _import_tickets(team: Team, actor: Actor) -> DatasetVersion:
    with tempfile.TemporaryDirectory() as folder:
        demo_tickets.write_files(Path(folder), SEED, train=TRAIN_ROWS, validation=VALIDATION_ROWS, test=TEST_ROWS)
        files = {split: Path(folder) / f"{split.value}.csv" for split in Split}
        with team_scope(team.pk):
            version = datasets.import_files(
                team=team, actor=actor, name="Demo support tickets", files=files, mapping=demo_tickets.MAPPING
            )
    # A newcomer should find the dataset ready, so it is not left to the queue; a second delivery changes nothing.
    dataset_tasks.import_version(str(version.pk))
    with team_scope(team.pk):
        version.refresh_from_db()
    return version


def _start_run(team: Team, actor: Actor, version: DatasetVersion) -> Run:
    with team_scope(team.pk):
        return experiments.start_experiment(
            team=team,
            actor=actor,
            name="Route support tickets",
            notes="Does a small model learn to route our tickets?",
            dataset_version=version,
            base_model=BaseModel.objects.get(slug=base_models.EMBEDDED_SLUG),
            recipe="fast",
            hyperparameters=None,
            deploy_as=DEPLOYMENT,
        )
