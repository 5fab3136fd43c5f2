"""No page asks the database more often because there are more rows."""

from __future__ import annotations

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from datasets_app import store
from datasets_app.models import DatasetVersion
from datasets_app.rows import CanonicalRow
from deployments.models import InferenceRecord
from portal import tokens
from portal.actors import Actor
from portal.models import Role, User
from portal.rls import team_scope
from tests.portal.test_route_matrix import API, PAGES, address
from tests.world import World, make_world

pytestmark = pytest.mark.slow

# A page and its frame: session, person, membership, and what it shows.
MOST_QUERIES = 25
SCOPES = ("SAVEPOINT", "RELEASE", "SELECT set_config", "SELECT current_setting")


def fill(world: World, person: User, numbers: range) -> None:
    """Put more rows beside each of the world's."""
    team, now = world.team, timezone.now()
    with team_scope(team.pk):
        for number in numbers:
            dataset = team.datasets.create(name=f"More {number}")
            version = team.datasetversions.create(
                dataset=dataset, number=1, status=DatasetVersion.Status.READY, train_rows=1
            )
            version.folder.mkdir(parents=True)
            messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "{}"})
            store.write_rows(version.rows_path("train"), [CanonicalRow(2, messages, 1)])
            for where in (world.run.experiment, team.experiments.create(name=f"More {number}")):
                run = team.runs.create(
                    experiment=where, number=100 + number, dataset_version=version, base_model=world.run.base_model,
                    base_revision="", hyperparameters=world.run.hyperparameters, config_hash="",
                    status="succeeded", ended_at=now,
                )  # fmt: skip
            team.runs.create(
                experiment=where, number=1, dataset_version=version, base_model=run.base_model, base_revision="",
                hyperparameters=run.hyperparameters, config_hash="",
            )  # fmt: skip
            adapter = team.adapters.create(
                run=run, result_of=run, base_model=run.base_model, step=1, sha256="", size_bytes=1
            )
            deployment = team.deployments.create(name=f"more-{number}")
            live = team.deploymentversions.create(deployment=deployment, number=1, adapter=adapter)
            deployment.live_version = live
            deployment.save()
            InferenceRecord(team=team, version=live, model=deployment.name, status=200, duration_ms=1).save()
            record = InferenceRecord(
                team=team, version=world.deployment_version, model="triage", status=200, duration_ms=1
            )
            record.save()
            team.loggedtexts.create(
                record=record, deployment=world.deployment, kept_until=now, messages=[{"role": "user", "content": "A"}]
            )
            team.deploymentversions.create(deployment=world.deployment, number=100 + number, adapter=adapter)
            team.deploymentevents.create(deployment=world.deployment, action="deployment.promoted", actor="somebody")
            team.modelexports.create(adapter=world.adapter, kind="gguf", status="failed")
            hook = team.webhookendpoints.create(
                name="x", url="https://example.org/", event_types=["batch.failed"], secret_hint="abcd"
            )
            for endpoint in (hook, world.webhook):
                team.webhookdeliverys.create(
                    endpoint=endpoint, event_id=hook.pk, event_type="batch.failed", subject="batch_1", occurred_at=now
                )
            member = User.objects.create_user(f"more{number}@example.org")
            team.memberships.create(user=member, role=Role.VIEWER)
            tokens.create_token(
                team=team, actor=Actor(user=person), owner=person, name=f"More {number}", scopes=["inference"]
            )


def counts(world: World, browser: Client, program: Client) -> dict[str, int]:
    """Return how many queries each page and API list sends that answers a GET."""
    found = {}
    for name in [*PAGES, *API]:
        client = browser if name in PAGES else program
        with CaptureQueriesContext(connection) as sent:
            answer = client.get(address(name, world))
            # The next request empties the log. Scopes cost more statements inside of a test's own transaction.
            queries = sum(not query["sql"].startswith(SCOPES) for query in sent.captured_queries)
        if answer.status_code == 200:
            found[name] = queries
            answer.getvalue()  # files are closed when they were read
    return found


@pytest.mark.django_db
def test_the_number_of_queries_does_not_grow_with_the_rows(
    team, base_model, ready_version, token, client_for, alice, api, node
):
    world = make_world(team, base_model, ready_version)
    fill(world, alice, range(2))
    browser = client_for(alice)
    counts(world, browser, api)  # what is looked up once for each process
    before = counts(world, browser, api)
    assert len(before) > 25
    assert [name for name, count in before.items() if not count] == ["openai:webhook_event_types"], "a list of words"
    fill(world, alice, range(2, 9))
    after = counts(world, browser, api)
    assert {name: (count, after[name]) for name, count in before.items() if after[name] > count} == {}
    assert {name: count for name, count in after.items() if count > MOST_QUERIES} == {}
