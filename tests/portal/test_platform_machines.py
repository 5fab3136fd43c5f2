"""Nodes, base models, maintenance and announcements."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import OperationalError, connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from deployments import lifecycle, placing
from experiments import scheduling, services
from experiments.models import Run
from portal import announcements, nodes, platform_state, teams
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition, Unavailable
from portal.models import Announcement, Node, User
from portal.rls import all_teams, team_scope


@pytest.fixture
def admin(paula) -> Actor:
    return Actor(user=paula)


def rerun(world, actor) -> Run:
    with team_scope(world.team.pk):
        return services.rerun(run=world.run, actor=actor)


# --- nodes ---------------------------------------------------------------------------------------------------------


def test_a_draining_node_gets_no_runs_and_no_adapters(world, actor, admin, node):
    run = rerun(world, actor)
    nodes.set_draining(node=node, is_draining=True, actor=admin)
    assert scheduling.dispatch() == 0
    with team_scope(world.team.pk):
        assert "takes new runs" in scheduling.queue_places(world.team)[0].sentence
        other = Node.objects.create(name="other", heartbeat_at=timezone.now())
        assert placing.choose_node(world.adapter.base_model) == other
    other.delete()
    nodes.set_draining(node=node, is_draining=False, actor=admin)
    assert scheduling.dispatch() == 1
    with all_teams("test"):
        assert Run.unscoped.get(pk=run.pk).node == node


def test_chosen_slots_outlast_a_restart_of_the_agent(admin, node):
    nodes.set_slots(node=node, slots=3, actor=admin)
    again = lifecycle.register_node(name="local", address="127.0.0.1", slots=1, device="cpu", memory_bytes=1)
    assert (again.slots, again.device) == (3, "cpu")


def test_slots_decide_how_many_runs_start(world, actor, admin, node):
    for _one in range(3):
        rerun(world, actor)
    nodes.set_slots(node=node, slots=0, actor=admin)
    assert scheduling.dispatch() == 0
    nodes.set_slots(node=node, slots=2, actor=admin)
    assert scheduling.dispatch() == 2


@pytest.mark.parametrize("slots", ["-1", "65", "many", ""])
def test_slots_out_of_range_are_refused(paula, client_for, node, slots):
    page = client_for(paula).post("/platform/nodes/local/slots/", {"slots": slots}, follow=True)
    assert "notice-danger" in page.content.decode()
    node.refresh_from_db()
    assert (node.slots, node.slots_are_set) == (1, False)


def test_only_a_dead_node_without_runs_is_forgotten(world, actor, admin, node):
    with pytest.raises(IllegalTransition, match="alive"):
        nodes.remove_node(node=node, actor=admin)
    rerun(world, actor)
    assert scheduling.dispatch() == 1
    Node.objects.update(heartbeat_at=timezone.now() - timedelta(hours=1))
    with all_teams("test"):
        with pytest.raises(IllegalTransition, match="assigned"):
            nodes.remove_node(node=node, actor=admin)
        Run.unscoped.filter(status="assigned").update(status="failed")
        nodes.remove_node(node=node, actor=admin)
    assert not Node.objects.exists()
    assert lifecycle.beat(node) is False


# --- base models ---------------------------------------------------------------------------------------------------


def test_a_forbidden_base_model_leaves_the_form_and_starts_nothing(world, paula, alice, client_for, actor):
    browser, model = client_for(alice), world.run.base_model
    new = reverse("experiments:new", args=[world.team.slug])
    assert model.name in browser.get(new).content.decode()
    client_for(paula).post(f"/platform/base-models/{model.slug}/allow/", {"allow": "no"})
    assert f'value="{model.pk}"' not in browser.get(new).content.decode()
    with team_scope(world.team.pk):
        run = Run.unscoped.select_related("experiment", "base_model").get(pk=world.run.pk)
        with pytest.raises(Forbidden, match="not allowed"):
            services.rerun(run=run, actor=actor)


@pytest.mark.parametrize(("result", "words"), [("passed", ""), ("unchecked", "no reference"), ("failed", "slowly")])
def test_the_page_of_nodes_tells_what_engines_say_of_their_answers(world, node, paula, client_for, result, words):
    lifecycle.engine_starts(node=node, base_model=world.run.base_model, access_key="k")
    lifecycle.engine_ready(node=node, base_model=world.run.base_model, url="http://127.0.0.1:1")
    lifecycle.engine_beats(node=node, base_model=world.run.base_model, self_check=result)
    page = client_for(paula).get("/platform/nodes/").content.decode()
    assert ("transformers" in page) == bool(words)
    assert words in page


# --- runs of all teams ---------------------------------------------------------------------------------------------


def test_an_admin_stops_a_run_with_a_reason_that_the_team_reads(world, actor, paula, client_for):
    run = rerun(world, actor)
    browser = client_for(paula)
    listed = browser.get("/platform/runs/").content.decode()
    assert str(run) in listed
    address = f"/platform/runs/{run.pk}/cancel/"
    assert browser.post(address, {"reason": ""}).status_code == 400
    browser.post(address, {"reason": "the node is needed for an upgrade"})
    with team_scope(world.team.pk):
        run = Run.unscoped.get(pk=run.pk)
        assert run.status == "cancelled"
        assert "needed for an upgrade" in run.events.get().message


def test_an_admin_moves_a_run_up(world, actor, paula, client_for):
    first, second = rerun(world, actor), rerun(world, actor)
    browser = client_for(paula)
    browser.post(f"/platform/runs/{second.pk}/priority/", {"priority": "1"})
    with all_teams("test"):
        assert [place.run for place in scheduling.queue_places(None)] == [second, first]
    assert browser.post(f"/platform/runs/{second.pk}/priority/", {"priority": "x"}).status_code == 400


def test_an_admin_stops_a_deployment(world, paula, client_for):
    browser = client_for(paula)
    assert "triage" in browser.get("/platform/deployments/").content.decode()
    browser.post(f"/platform/deployments/{world.deployment.pk}/stop/")
    with team_scope(world.team.pk):
        world.deployment.refresh_from_db()
    assert not world.deployment.is_running


# --- maintenance ---------------------------------------------------------------------------------------------------


@pytest.fixture
def closed(admin, db, monkeypatch):
    monkeypatch.setattr(platform_state, "FRESH_S", -1.0)  # every request asks
    platform_state.start_maintenance(message="Back at 14:00.", retry_after_s=120, actor=admin)
    platform_state.forget()


def test_everybody_but_platform_admins_is_told(closed, team, alice, paula, client_for, api):
    page = client_for(alice).get(f"/t/{team.slug}/")
    assert (page.status_code, page.headers["Retry-After"]) == (503, "120")
    assert "Back at 14:00." in page.content.decode()
    for method, address in (("get", reverse("datasets-api:list")), ("post", reverse("openai:chat"))):
        answer = getattr(api, method)(address)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "120")
        assert answer.json()["error"]["code"] == "maintenance"
        assert answer.json()["error"]["message"] == "Back at 14:00."
    assert client_for(paula).get("/platform/").status_code == 200
    assert Client().get("/healthz").status_code == 200
    assert Client().get("/login/").status_code == 200


def test_no_run_starts_until_it_ends(closed, world, actor, admin, node):
    rerun(world, actor)
    assert scheduling.dispatch() == 0
    assert "maintenance" in scheduling.queue_places(world.team)[0].sentence
    platform_state.end_maintenance(actor=admin)
    assert scheduling.dispatch() == 1


def test_an_admin_who_sees_the_portal_as_somebody_goes_on(closed, team, alice, paula, client_for):
    browser = client_for(paula)
    browser.post(f"/platform/people/{alice.pk}/", {"reason": "look"})
    assert browser.get(f"/t/{team.slug}/").status_code == 200


def test_another_process_hears_of_it_within_a_second(db, admin):
    platform_state.forget()
    assert platform_state.current().maintenance_since is None
    platform_state.start_maintenance(message="", retry_after_s=60, actor=admin)
    # This test's transaction never commits, so the process was not told: as any other process.
    assert platform_state.current().maintenance_since is None
    object.__setattr__(platform_state._latest, "read_at", platform_state._latest.read_at - 1.01)
    assert platform_state.current().maintenance_since is not None


def test_without_the_database_the_last_answer_counts(closed, monkeypatch):
    assert platform_state.current().message == "Back at 14:00."

    def away() -> None:
        raise OperationalError("away")

    monkeypatch.setattr(platform_state, "_read", away)
    assert platform_state.current().message == "Back at 14:00."
    platform_state.forget()
    with pytest.raises(OperationalError):
        platform_state.current()


def test_the_page_closes_and_opens(paula, client_for):
    browser = client_for(paula)
    browser.post("/platform/maintenance/", {"maintenance_message": "Upgrade", "retry_after_s": "600"})
    assert not platform_state.runs_may_start()
    bad = browser.post("/platform/maintenance/", {"maintenance_message": "x" * 301, "retry_after_s": "5"})
    assert bad.status_code == 400
    browser.post("/platform/maintenance/", {"end": "yes"})
    assert platform_state.runs_may_start()


# --- announcements -------------------------------------------------------------------------------------------------


def seen_by(browser, team) -> str:
    platform_state.forget()
    return browser.get(f"/t/{team.slug}/").content.decode()


def test_announcements_come_go_and_are_closed_by_each_for_themselves(team, alice, bob, admin, client_for):
    now = timezone.now()
    shown = announcements.publish(text="New models <b>today</b>", actor=admin)
    announcements.publish(text="Tomorrow only", starts_at=now + timedelta(days=1), actor=admin)
    stays = announcements.publish(text="Disk is full", tone="danger", is_dismissible=False, actor=admin)
    page = seen_by(client_for(alice), team)
    assert "New models &lt;b&gt;today&lt;/b&gt;" in page
    assert "Disk is full" in page
    assert "Tomorrow only" not in page
    client_for(alice).post(reverse("portal:dismiss_announcement", args=[shown.pk]))
    assert "New models" not in seen_by(client_for(alice), team)
    assert "New models" in seen_by(client_for(bob), team)
    assert client_for(alice).post(reverse("portal:dismiss_announcement", args=[stays.pk])).status_code == 400
    announcements.withdraw(announcement=stays, actor=admin)
    assert "Disk is full" not in seen_by(client_for(alice), team)


def test_after_closing_one_goes_back_to_our_own_pages_only(team, alice, admin, client_for):
    said = announcements.publish(text="Hello", actor=admin)
    browser, address = client_for(alice), reverse("portal:dismiss_announcement", args=[said.pk])
    there = f"http://testserver/t/{team.slug}/"
    assert browser.post(address, headers={"Referer": there}).headers["Location"] == there
    assert browser.post(address, headers={"Referer": "http://evil.example/"}).headers["Location"] == "/"


@pytest.mark.parametrize(
    "wrong",
    [{"text": ""}, {"text": "x" * 301}, {"tone": "loud"}, {"ends_at": "2001-01-01T00:00"}, {"starts_at": "soon"}],
)
def test_announcements_that_do_not_fit_are_refused(paula, client_for, wrong):
    right = {"text": "Hello", "tone": "info", "starts_at": "2026-01-01T00:00", "ends_at": ""}
    assert client_for(paula).post("/platform/announcements/", {**right, **wrong}).status_code in (200, 400)
    assert not Announcement.objects.exists()


def test_publishing_by_the_page(paula, client_for):
    right = {"text": "Hello", "tone": "success", "starts_at": "2026-01-01T00:00", "is_dismissible": "on"}
    assert client_for(paula).post("/platform/announcements/", right).status_code == 302
    assert Announcement.objects.get().tone == "success"


def test_pages_ask_the_database_a_bounded_number_of_times(world, actor, paula, client_for, node):
    """Lists cost the same whether they hold one thing or many."""
    pages = ["/platform/", "/platform/teams/", "/platform/people/", "/platform/runs/", "/platform/deployments/"]
    pages += ["/platform/base-models/", "/platform/announcements/", "/platform/audit/"]
    browser = client_for(paula)

    def asked(page: str) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert browser.get(page).status_code == 200
        return len(queries)

    few = {page: asked(page) for page in pages}
    for number in range(8):
        person = User.objects.create_user(f"p{number}@example.org", None)
        made = teams.create_team(name=f"Team {number}", owner=person, actor=Actor(user=paula))
        with team_scope(made.pk):
            made.deployments.create(name="d")
        rerun(world, actor)
        announcements.publish(text=f"Number {number}", actor=Actor(user=paula))
    many = {page: asked(page) for page in pages}
    assert {page: many[page] - few[page] for page in pages if many[page] > few[page] + 1} == {}
    assert max(many.values()) <= 30


def test_no_node_that_takes_adapters(world, node, admin):
    nodes.set_draining(node=node, is_draining=True, actor=admin)
    assert placing.choose_node(world.adapter.base_model) == node, "it waits for the one that there is"
    Node.objects.all().delete()
    with pytest.raises(Unavailable):
        placing.choose_node(world.adapter.base_model)
