"""The audit trail: what was done, read and refused; its pages, filters and export."""

from __future__ import annotations

import ast
import csv
import io
from datetime import timedelta
from pathlib import Path

import pytest
from django.conf import settings
from django.db import DatabaseError, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from portal import audit, audit_trail, team_end, tokens
from portal.actors import Actor
from portal.audit_actions import ACTIONS
from portal.csv_export import csv_lines
from portal.models import ApiToken, AuditEvent, Role
from portal.rls import all_teams, team_scope
from tests.cast import PASSWORD

ROOMS = ("portal", "datasets_app", "experiments", "deployments", "gpu_worker")


def events(**wanted) -> list[AuditEvent]:
    return list(AuditEvent.objects.filter(**wanted))


# --- every action has a name --------------------------------------------------------------------------------------


def actions_in_the_code() -> dict[str, str]:
    """Return every action key that is handed to the audit trail, with the place where."""
    found: dict[str, str] = {}
    for room in ROOMS:
        for path in (Path(settings.BASE_DIR) / room).rglob("*.py"):
            for function in ast.walk(ast.parse(path.read_text())):
                if isinstance(function, ast.FunctionDef):
                    found |= dict.fromkeys(keys_of(function), f"{path.name}:{function.name}")
    return found


def keys_of(function: ast.FunctionDef) -> set[str]:
    keys: set[str] = set()
    for call in ast.walk(function):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        if not (isinstance(call.func.value, ast.Name) and call.func.value.id in ("audit", "history")):
            continue
        named = call.args[1:3]
        values = {argument.id for argument in named if isinstance(argument, ast.Name)}
        assigned = [
            one.value
            for one in ast.walk(function)
            if isinstance(one, ast.Assign | ast.NamedExpr) and names(one) & values
        ]
        for expression in [*named, *assigned]:
            texts = {part.value for part in ast.walk(expression) if isinstance(part, ast.Constant)}
            keys |= {text for text in texts if isinstance(text, str) and text.count(".") == 1 and " " not in text}
    return keys


def names(assignment: ast.Assign | ast.NamedExpr) -> set[str]:
    targets = assignment.targets if isinstance(assignment, ast.Assign) else [assignment.target]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.slow
def test_every_action_in_the_code_has_a_name():
    used = actions_in_the_code()
    assert {"deployment.created", "run.submitted", "access.stranger", "token.refused"} <= set(used)
    assert set(used) - set(ACTIONS) == set(), "add them to portal/audit_actions.py"


@pytest.mark.slow
def test_every_name_belongs_to_an_action():
    texts: set[str] = set()
    for room in ROOMS:
        for path in (Path(settings.BASE_DIR) / room).rglob("*.py"):
            if path.name != "audit_actions.py":
                parts = ast.walk(ast.parse(path.read_text()))
                texts |= {one.value for one in parts if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    # The last is for groups of a sign-in provider.
    assert set(ACTIONS) - texts <= {"member.kept_last_admin"}, "nobody writes these any more"


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_member_without_the_role_leaves_a_trace(team, bob, client_for):
    assert client_for(bob).get(f"/t/{team.slug}/audit/").status_code == 403
    (event,) = events(outcome="denied")
    assert (event.action, event.team_id, event.user_id) == ("access.denied", team.pk, bob.pk)
    assert event.detail["route"] == "GET portal:audit"


def test_a_stranger_leaves_a_trace_in_the_team_whose_address_it_was(team, charlie, client_for):
    assert client_for(charlie).get(f"/t/{team.slug}/").status_code == 404
    (event,) = events(outcome="denied")
    assert (event.action, event.team_id, event.actor) == ("access.stranger", team.pk, charlie.email)


def test_an_address_that_nobody_has_and_a_thing_that_is_not_there_are_no_refusals(team, bob, client_for):
    client_for(bob).get("/t/no-such-team/")
    client_for(bob).get(reverse("experiments:run", args=[team.slug, bob.pk]))
    Client().get(f"/t/{team.slug}/")
    assert events(outcome="denied") == []


def test_a_flood_of_refusals_is_one_event_a_minute(team, charlie, client_for, monkeypatch):
    browser = client_for(charlie)
    for _again in range(5):
        browser.get(f"/t/{team.slug}/")
    audit._noted.clear()  # as another process, which has not seen it yet
    browser.get(f"/t/{team.slug}/")
    assert len(events(action="access.stranger")) == 1
    browser.get(f"/t/{team.slug}/members/")
    assert len(events(action="access.stranger")) == 2, "another route is another event"
    now = audit.time.time()
    monkeypatch.setattr(audit.time, "time", lambda: now + 60)
    browser.get(f"/t/{team.slug}/")
    assert len(events(action="access.stranger")) == 3


def test_someone_who_tries_the_console_leaves_a_trace(alice, client_for):
    assert client_for(alice).get("/platform/").status_code == 404
    assert [event.actor for event in events(action="access.console")] == [alice.email]


def test_a_token_without_the_scope_and_a_dead_one_leave_traces(team, alice, actor, make_token):
    weak = Client(headers={"Authorization": f"Bearer {make_token(team, alice, scopes=['inference'], name='weak')}"})
    assert weak.get(reverse("datasets-api:list")).status_code == 403
    assert [(e.action, e.team_id, e.actor) for e in events(outcome="denied")] == [
        ("access.denied", team.pk, "token weak")
    ]
    with team_scope(team.pk):
        tokens.revoke_token(token=ApiToken.unscoped.get(), actor=actor)
    for _again in range(3):
        assert weak.get(reverse("datasets-api:list")).status_code == 401
    assert len(events(action="token.refused", team_id=team.pk)) == 1


def test_an_unknown_token_leaves_none(db):
    unknown = Client(headers={"Authorization": f"Bearer tnp_{'0' * 16}_{'x' * 43}"})
    assert unknown.get(reverse("datasets-api:list")).status_code == 401
    assert events() == []


# --- the door ------------------------------------------------------------------------------------------------------


def test_signing_in_and_out_leaves_a_trace_and_a_refusal_does_not_keep_what_was_typed(alice):
    browser = Client()
    assert not browser.login(username=alice.email, password="wrong")
    assert not browser.login(username="hunter2 typed into the wrong box", password="x")
    assert browser.login(username=alice.email, password=PASSWORD)
    browser.logout()
    found = {event.action: event for event in events(user_id=alice.pk)}
    assert set(found) == {"sign_in.refused", "sign_in.succeeded", "sign_out.done"}
    (unknown,) = events(action="sign_in.refused", user_id=None)
    assert unknown.actor == "unknown person"
    assert "hunter2" not in str(list(AuditEvent.objects.values()))


# --- reading -------------------------------------------------------------------------------------------------------


def test_data_that_are_shown_or_taken_away_leave_one_event_each(world, client_for, bob, api):
    browser, team, version = client_for(bob), world.team, world.version
    browser.get(reverse("datasets:version", args=[team.slug, version.pk]))
    b"".join(
        browser.get(reverse("datasets:download", args=[team.slug, version.pk, "train", "jsonl"])).streaming_content
    )
    browser.get(reverse("experiments:adapter_download", args=[team.slug, world.run.pk]))
    api.get(reverse("datasets-api:rows", args=[version.pk]))
    api.get(reverse("experiments-api:adapter_download", args=[world.adapter.pk]))
    assert sorted((e.action, e.actor, e.object_id) for e in events(outcome="read", team_id=team.pk)) == [
        ("adapter.downloaded", bob.email, str(world.adapter.pk)),
        ("adapter.downloaded", "token test", str(world.adapter.pk)),
        ("dataset.downloaded", bob.email, str(version.pk)),
        ("dataset.rows_read", bob.email, str(version.pk)),
        ("dataset.rows_read", "token test", str(version.pk)),
    ]


# --- the pages -----------------------------------------------------------------------------------------------------


@pytest.fixture
def long_trail(team, other_team, actor):
    """130 events of `team`, five at each moment, and one of `other_team`."""
    now = timezone.now()
    rows = [
        AuditEvent(
            team_id=team.pk,
            actor=("anna@example.org", "boris@example.org")[number % 2],
            action=("run.submitted", "dataset.deleted")[number % 2],
            object_type="run",
            object_id=str(number),
            object_name=f"thing {number}",
            ip="192.0.2.7",
            request_id=f"req_{number}",
        )
        for number in range(130)
    ]
    for number, row in enumerate(rows):
        row.at = now - timedelta(days=1, minutes=number // 5)
    AuditEvent._meta.get_field("at").auto_now_add = False
    try:
        AuditEvent.objects.bulk_create(rows)
    finally:
        AuditEvent._meta.get_field("at").auto_now_add = True
    return rows


def test_pages_by_keyset_show_each_event_once(long_trail, team):
    known = AuditEvent.objects.filter(team_id=team.pk)
    seen, before = [], ""
    while True:
        page = audit_trail.page_of(known, before)
        seen += [event.pk for event in page.events]
        before = page.older
        if not before:
            break
    assert len(seen) == len(set(seen)) == known.count()


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("person=anna", 65),
        ("action=dataset.deleted", 65),
        ("object=17", 2),
        ("object=thing+12", 11),
        ("q=req_5", 1),
        ("q=192.0.2.7", 130),
        ("q=boris&action=run.submitted", 0),
        ("outcome=denied", 0),
        ("since=2099-01-01", 0),
        ("until=2001-01-01", 0),
    ],
)
def test_filters(long_trail, team, client_for, alice, query, expected):
    lines = b"".join(client_for(alice).get(f"/t/{team.slug}/audit.csv?{query}").streaming_content).decode()
    rows = [row for row in csv.DictReader(io.StringIO(lines)) if row["object_name"].startswith("thing ")]
    assert len(rows) == expected


@pytest.mark.parametrize(
    "query",
    [
        "since=yesterday",
        "action=no.such",
        "outcome=x",
        "before=nonsense",
        "before=2020-01-01_x",
        "until=9999-12-31",
        "since=0001-01-01",
    ],
)
def test_filters_that_do_not_fit_are_refused(team, client_for, alice, query):
    assert client_for(alice).get(f"/t/{team.slug}/audit/?{query}").status_code == 400


def test_a_team_reads_its_own_trail_only(long_trail, team, other_team, client_for, charlie, alice, paula):
    theirs = client_for(charlie).get(f"/t/{other_team.slug}/audit/").content.decode()
    assert "thing 12" not in theirs
    assert "Team created" in theirs
    exported = b"".join(client_for(charlie).get(f"/t/{other_team.slug}/audit.csv").streaming_content).decode()
    assert "thing 12" not in exported
    everything = b"".join(client_for(paula).get("/platform/audit.csv").streaming_content).decode()
    assert everything.count("thing 12") == 11
    assert other_team.slug in everything
    of_one = b"".join(client_for(paula).get(f"/platform/audit.csv?team={other_team.slug}").streaming_content).decode()
    assert "thing 12" not in of_one


def test_the_export_is_an_event_itself_and_holds_no_formula(team, client_for, alice, actor):
    with team_scope(team.pk):
        experiment = team.experiments.create(name='=HYPERLINK("http://evil.example")')
        audit.record(team, actor, "experiment.created", experiment)
    lines = b"".join(client_for(alice).get(f"/t/{team.slug}/audit.csv").streaming_content).decode()
    names = [row["object_name"] for row in csv.DictReader(io.StringIO(lines))]
    assert '\'=HYPERLINK("http://evil.example")' in names
    assert len(events(action="audit.exported", outcome="read", team_id=team.pk)) == 1


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_cells_that_a_spreadsheet_would_run_are_made_harmless(start):
    (_header, line) = csv_lines(["a", "b"], [[f"{start}1", -1]])
    ((text, number),) = csv.reader(io.StringIO(line, newline=""))
    assert (text, number) == (f"'{start}1", "-1")


def test_names_cannot_pretend_to_be_other_lines(team, actor):
    with team_scope(team.pk):
        audit.record(team, actor, "experiment.created", team.experiments.create(name="a\r\nb\x1b[2Jc"))
    assert events(action="experiment.created")[0].object_name == "a  b [2Jc"


def test_the_database_refuses_change_and_deletion_of_refusals_too(team, charlie, client_for):
    client_for(charlie).get(f"/t/{team.slug}/")
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEvent.objects.filter(outcome="denied").delete()


# --- each action, one event ----------------------------------------------------------------------------------------


def test_what_services_do_leaves_exactly_one_event(world, actor, paula, bob, node):
    """Walk the services of the portal, runs and deployments; each call adds exactly the event that it is about."""
    from deployments import canaries
    from deployments import services as deployments
    from experiments import services as experiments
    from experiments.models import Priority
    from portal import announcements, base_models, impersonation, nodes, people, platform_state, platform_teams, teams
    from portal import secrets as team_secrets

    admin, team = Actor(user=paula), world.team
    membership = team.memberships(manager="unscoped")
    walk = [
        ("run.submitted", lambda: kept.setdefault("run", experiments.rerun(run=world.run, actor=actor))),
        (
            "run.priority_changed",
            lambda: experiments.set_priority(run=kept["run"], priority=Priority.HIGH, actor=actor),
        ),
        ("run.cancelled", lambda: experiments.cancel_run(run=kept["run"], actor=actor, reason="not needed")),
        (
            "deployment.canary_changed",
            lambda: canaries.set_canary(version=world.deployment.canary_version, actor=actor, share=20),
        ),
        ("deployment.canary_ended", lambda: canaries.take_back(deployment=world.deployment, actor=actor)),
        ("deployment.stopped", lambda: deployments.stop_deployment(deployment=world.deployment, actor=actor)),
        ("deployment.started", lambda: deployments.start_deployment(deployment=world.deployment, actor=actor)),
        ("deployment.deleted", lambda: deployments.delete_deployment(deployment=world.deployment, actor=actor)),
        ("token.revoked", lambda: tokens.revoke_token(token=world.token, actor=actor)),
        (
            "member.role_changed",
            lambda: teams.change_role(membership=membership.get(user=bob), role=Role.EDITOR, actor=actor),
        ),
        ("member.removed", lambda: teams.remove_member(membership=membership.get(user=bob), actor=actor)),
        (
            "base_model.forbidden",
            lambda: base_models.set_allowed(model=world.run.base_model, allowed=False, actor=admin),
        ),
        ("base_model.allowed", lambda: base_models.set_allowed(model=world.run.base_model, allowed=True, actor=admin)),
        ("node.drained", lambda: nodes.set_draining(node=node, is_draining=True, actor=admin)),
        ("node.reopened", lambda: nodes.set_draining(node=node, is_draining=False, actor=admin)),
        ("node.slots_changed", lambda: nodes.set_slots(node=node, slots=3, actor=admin)),
        (
            "node.removed",
            lambda: (type(node).objects.update(heartbeat_at=None), nodes.remove_node(node=node, actor=admin)),
        ),
        ("person.made_platform_admin", lambda: people.set_platform_admin(person=bob, is_admin=True, actor=admin)),
        ("person.unmade_platform_admin", lambda: people.set_platform_admin(person=bob, is_admin=False, actor=admin)),
        (
            "impersonation.started",
            lambda: kept.setdefault("as", impersonation.start(person=bob, reason="help", actor=admin)),
        ),
        ("impersonation.ended", lambda: impersonation.end(impersonation=kept["as"], actor=admin)),
        ("person.deactivated", lambda: people.deactivate(person=bob, actor=admin)),
        ("person.reactivated", lambda: people.reactivate(person=bob, actor=admin)),
        ("maintenance.started", lambda: platform_state.start_maintenance(message="", retry_after_s=60, actor=admin)),
        ("maintenance.ended", lambda: platform_state.end_maintenance(actor=admin)),
        ("announcement.published", lambda: kept.setdefault("said", announcements.publish(text="Hello", actor=admin))),
        ("announcement.withdrawn", lambda: announcements.withdraw(announcement=kept["said"], actor=admin)),
        (
            "secret.stored",
            lambda: team_secrets.store(team=team, kind="hub_token", name="hub", text="hf_x1", actor=actor),
        ),
        (
            "secret.replaced",
            lambda: team_secrets.store(team=team, kind="hub_token", name="hub", text="hf_x2", actor=actor),
        ),
        ("secret.deleted", lambda: team_secrets.delete(secret=team.teamsecrets.get(), actor=actor)),
        ("team.renamed", lambda: platform_teams.rename_team(team=team, name="New name", actor=admin)),
        ("team.weight_changed", lambda: platform_teams.set_weight(team=team, weight=7, actor=admin)),
        ("team.archived", lambda: team_end.archive_team(team=team, actor=admin)),
        ("team.restored", lambda: team_end.restore_team(team=team, actor=admin)),
    ]
    kept: dict = {}
    with all_teams("test"):
        for action, call in walk:
            known = set(AuditEvent.objects.values_list("pk", flat=True))
            call()
            added = AuditEvent.objects.exclude(pk__in=known)
            assert [event.action for event in added] == [action]
            assert (added[0].user_id, added[0].outcome) in ((actor.user.pk, "done"), (paula.pk, "done"))
