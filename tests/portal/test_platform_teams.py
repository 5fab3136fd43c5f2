"""What platform admins do with teams: making, renaming, weighing, archiving, and deleting without a trace (T-TI9)."""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from deployments import lifecycle
from deployments.models import Deployment, Placement
from experiments import scheduling, services
from experiments.models import Run
from portal import platform_teams, team_end
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import AuditEvent, Invitation, Membership, Team, User
from portal.rls import all_teams, team_scope
from portal.scoping import TeamOwned


@pytest.fixture
def admin(paula) -> Actor:
    return Actor(user=paula)


def test_a_team_is_made_with_its_first_admin(paula, bob, client_for):
    browser = client_for(paula)
    answer = browser.post("/platform/new-team/", {"name": "Field Service", "email": "Bob@Example.org"})
    assert answer.headers["Location"] == "/platform/teams/field-service/"
    with all_teams("test"):
        (membership,) = Membership.unscoped.filter(team__slug="field-service")
    assert (membership.user, membership.role) == (bob, "admin")
    again = browser.post("/platform/new-team/", {"name": "Field Service", "email": "bob@example.org"})
    assert again.status_code == 400
    assert "already a team" in again.content.decode()


def test_a_first_admin_without_an_account_is_invited(paula, client_for):
    browser = client_for(paula)
    page = browser.post("/platform/new-team/", {"name": "Field Service", "email": "new@example.org"})
    link = re.search(r"http://testserver(/[^\s<]+)", page.content.decode())[1]
    assert Client().get(link, follow=True).status_code == 200
    with all_teams("test"):
        assert not Membership.unscoped.exists()
        (invitation,) = Invitation.unscoped.all()
    assert (invitation.email, invitation.role, invitation.team.slug) == ("new@example.org", "admin", "field-service")
    other = browser.post("/platform/teams/field-service/", {"invite": "", "email": "second@example.org"})
    assert "second@example.org is invited" in other.content.decode()
    twice = browser.post("/platform/teams/field-service/", {"invite": "", "email": "second@example.org"})
    assert twice.status_code == 400


def test_a_second_factor_is_demanded_and_released(team, paula, alice, client_for):
    browser, address = client_for(paula), f"/platform/teams/{team.slug}/"
    browser.post(address, {"mfa": "", "required": "on"})
    team.refresh_from_db()
    assert team.mfa_required
    assert client_for(alice).get(f"/t/{team.slug}/").status_code == 302
    browser.post(address, {"mfa": ""})
    team.refresh_from_db()
    assert not team.mfa_required


def test_search_and_pages(paula, client_for, team, other_team):
    browser = client_for(paula)
    listed = browser.get("/platform/teams/?q=fin").content.decode()
    assert "Finance" in listed
    assert "Service Desk" not in listed
    assert "Nothing found" in browser.get("/platform/teams/?q=zzz").content.decode()
    assert browser.get("/platform/teams/?page=nonsense").status_code == 200


def test_rename_keeps_the_address(team, paula, client_for):
    client_for(paula).post(f"/platform/teams/{team.slug}/", {"rename": "", "name": "Help Desk"})
    team.refresh_from_db()
    assert (team.name, team.slug) == ("Help Desk", "service-desk")
    bad = client_for(paula).post(f"/platform/teams/{team.slug}/", {"rename": "", "name": "  "})
    assert bad.status_code == 400


@pytest.mark.parametrize("weight", ["0", "-1", "101", "x", ""])
def test_weights_out_of_range_are_refused(team, paula, client_for, weight):
    assert client_for(paula).post(f"/platform/teams/{team.slug}/", {"weigh": "", "weight": weight}).status_code == 400
    team.refresh_from_db()
    assert team.weight == 1


def queue_runs(world, actor, count: int) -> list[Run]:
    with team_scope(world.team.pk):
        return [services.rerun(run=world.run, actor=actor) for _one in range(count)]


def test_a_new_weight_decides_the_very_next_start(world, other_team, charlie, actor, admin, node, base_model):
    node.slots = 4
    node.save()
    Team.objects.update(max_concurrent_runs=10)
    queue_runs(world, actor, 4)
    with all_teams("test"):
        # The other team gets runs of the same kind, by copying ours.
        for number, run in enumerate(Run.unscoped.filter(team=world.team, status="queued")):
            experiment = other_team.experiments.get_or_create(name="theirs")[0]
            dataset = other_team.datasets.get_or_create(name="theirs")[0]
            version = other_team.datasetversions.get_or_create(dataset=dataset, number=1, defaults={"status": "ready"})[
                0
            ]
            run.pk, run.team, run.experiment, run.number = uuid.uuid4(), other_team, experiment, number + 1
            run.dataset_version, run._state.adding = version, True
            run.save()
    platform_teams.set_weight(team=other_team, weight=3, actor=admin)
    scheduling.dispatch()
    with all_teams("test"):
        started = Run.unscoped.filter(status="assigned").values_list("team__slug", flat=True)
        assert sorted(started) == ["finance", "finance", "finance", "service-desk"]


def test_archiving_shuts_everything_and_restoring_opens_it(world, actor, admin, api, client_for, alice, bob, node):
    (waiting, working) = queue_runs(world, actor, 2)
    with team_scope(world.team.pk):
        Run.unscoped.filter(pk=working.pk).update(
            status="running", node=node, slot=0, lease_token=uuid.uuid4(), lease_until=timezone.now()
        )
    browser = client_for(alice)
    assert browser.get(f"/t/{world.team.slug}/").status_code == 200
    assert api.get(reverse("datasets-api:list")).status_code == 200
    team_end.archive_team(team=world.team, actor=admin)
    assert browser.get(f"/t/{world.team.slug}/").status_code == 404
    assert api.get(reverse("datasets-api:list")).status_code == 401
    assert "Service Desk" not in browser.get("/").content.decode()
    with all_teams("test"):
        assert Run.unscoped.get(pk=waiting.pk).status == "cancelled"
        assert Run.unscoped.get(pk=working.pk).cancel_requested_at is not None
        assert not Deployment.unscoped.filter(is_running=True).exists()
    with pytest.raises(IllegalTransition, match="still being stopped"):
        team_end.delete_team(team=world.team, actor=admin, typed=world.team.slug)
    team_end.restore_team(team=world.team, actor=admin)
    assert browser.get(f"/t/{world.team.slug}/").status_code == 200
    assert api.get(reverse("datasets-api:list")).status_code == 200


def test_runs_of_an_archived_team_never_start(world, actor, admin, node):
    Team.objects.filter(pk=world.team.pk).update(archived_at=timezone.now())
    queue_runs(world, actor, 1)
    assert scheduling.dispatch() == 0


def test_deleting_asks_for_the_address_and_for_archiving_first(team, admin):
    with pytest.raises(InvalidInput, match="service-desk"):
        team_end.delete_team(team=team, actor=admin, typed="Service Desk")
    with pytest.raises(IllegalTransition, match="Archive"):
        team_end.delete_team(team=team, actor=admin, typed="service-desk")


@pytest.mark.django_db(transaction=True)
def test_a_deleted_team_leaves_nothing_but_its_trail(world, other_team, paula, client_for, node, settings, alice):
    team, adapter = world.team, world.adapter
    with team_scope(team.pk):
        world.run.metrics.create(team=team, step=1, values={"loss": 1.0})
        world.run.events.create(team=team, message="said")
        Placement(team=team, adapter=adapter, node=node, status="ready").save()
        team.inferencerecords.create(model="triage", request_id="r", status=200, duration_ms=1)
    with team_scope(other_team.pk):
        other_team.datasets.create(name="theirs")
    engine_name = adapter.engine_name
    browser = client_for(paula)
    browser.post(f"/platform/teams/{team.slug}/archive/")
    page = browser.post(f"/platform/teams/{team.slug}/delete/", {"typed": "wrong"})
    assert page.status_code == 400
    assert Path(team.folder).is_dir()
    gone = browser.post(f"/platform/teams/{team.slug}/delete/", {"typed": team.slug})
    assert gone.headers["Location"] == "/platform/teams/"
    with all_teams("test"):
        for model in apps.get_models():
            if issubclass(model, TeamOwned):
                assert not model.unscoped.filter(team_id=team.pk).exists(), model
        assert other_team.datasets.count() == 1
    assert not Team.objects.filter(pk=team.pk).exists()
    assert not [path for path in Path(settings.DATA_DIR).rglob("*") if str(team.pk) in str(path)]
    # The node's agent unloads what no placement names any more.
    assert engine_name not in {state.engine_name for state in lifecycle.placements_of(node)}
    assert AuditEvent.objects.filter(team_id=team.pk, action="team.deleted").count() == 1
    assert User.objects.filter(pk=alice.pk).exists()
    assert Client().get("/healthz").status_code == 200


@pytest.mark.django_db(transaction=True)
def test_the_second_chance_removes_only_folders_of_teams_that_are_gone(team, settings):
    team.folder.mkdir(parents=True)
    team_end.remove_folder(str(team.pk))
    assert team.folder.is_dir()
    orphan = Path(settings.DATA_DIR) / "teams" / str(uuid.uuid4())
    (orphan / "runs").mkdir(parents=True)
    team_end.remove_folder(orphan.name)
    team_end.remove_folder(orphan.name)
    assert not orphan.exists()
