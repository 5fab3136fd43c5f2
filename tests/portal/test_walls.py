"""The two tenant walls: scoped access in Python, row-level security in PostgreSQL."""

from __future__ import annotations

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, transaction

from datasets_app.models import Dataset
from experiments.models import Experiment, Run
from portal.models import ApiToken, AuditEvent, Membership
from portal.rls import all_teams, team_scope
from portal.scoping import CrossTeamReference, TeamOwned, UnscopedAccess

OWNED = [model for model in apps.get_models() if issubclass(model, TeamOwned)]


@pytest.mark.parametrize("model", OWNED, ids=lambda model: model.__name__)
def test_objects_is_closed(model):
    with pytest.raises(UnscopedAccess):
        model.objects  # noqa: B018


@pytest.mark.parametrize("model", OWNED, ids=lambda model: model.__name__)
def test_every_team_owned_table_is_behind_the_second_wall(db, model):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE relname = %s", [model._meta.db_table]
        )
        assert cursor.fetchone() == (True, True)
        cursor.execute("SELECT count(*) FROM pg_policies WHERE tablename = %s", [model._meta.db_table])
        assert cursor.fetchone() == (1,)


def test_every_model_with_a_team_is_team_owned():
    with_team = {m for m in apps.get_models() if any(f.name == "team" for f in m._meta.concrete_fields)}
    assert with_team == set(OWNED)


def test_the_tests_run_as_an_unprivileged_role(db):
    with connection.cursor() as cursor:
        cursor.execute("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
        assert cursor.fetchone() == (False,)


def test_nothing_is_visible_outside_a_scope(team, other_team):
    assert Membership.unscoped.count() == 0
    with team_scope(team.pk):
        assert {m.user.email for m in Membership.unscoped.all()} == {"alice@example.org", "bob@example.org"}
    with all_teams("test"):
        assert Membership.unscoped.count() == 3
    assert Membership.unscoped.count() == 0


def test_scopes_nest_and_restore(team, other_team):
    with team_scope(team.pk):
        with all_teams("test"):
            assert Membership.unscoped.count() == 3
            with team_scope(other_team.pk):
                assert Membership.unscoped.count() == 1
            assert Membership.unscoped.count() == 3
        assert Membership.unscoped.count() == 2


def test_the_database_refuses_a_row_for_another_team(team, other_team):
    with team_scope(team.pk):
        with pytest.raises(DatabaseError, match="row-level security"), transaction.atomic():
            Dataset.unscoped.create(team=other_team, name="smuggled")
        assert Dataset.unscoped.count() == 0


def test_the_database_hides_rows_of_another_team_from_update_and_delete(team, other_team):
    with team_scope(other_team.pk):
        other_team.datasets.create(name="secret")
    with team_scope(team.pk):
        assert Dataset.unscoped.update(name="defaced") == 0
        assert Dataset.unscoped.all().delete()[0] == 0
    with team_scope(other_team.pk):
        assert other_team.datasets.get().name == "secret"


def test_a_row_may_not_point_into_another_team(team, other_team):
    with all_teams("test"):
        strange = other_team.experiments.create(name="theirs")
        with pytest.raises(CrossTeamReference):
            Run(team=team, experiment=strange, number=1).save()
        assert Experiment.unscoped.count() == 1


def test_a_scope_ends_with_its_transaction_even_on_errors(team):
    with pytest.raises(ZeroDivisionError), team_scope(team.pk):
        raise ZeroDivisionError
    assert ApiToken.unscoped.count() == 0
    assert Membership.unscoped.count() == 0


def test_the_audit_trail_refuses_change(team):
    assert AuditEvent.objects.filter(team_id=team.pk, action="team.created").count() == 1
    for change in (lambda: AuditEvent.objects.update(actor="nobody"), lambda: AuditEvent.objects.all().delete()):
        with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
            change()


def test_all_teams_needs_a_reason():
    with pytest.raises(ValueError, match="why"):
        all_teams("")


def test_a_privileged_database_role_is_refused(db, monkeypatch):
    from django.core.exceptions import ImproperlyConfigured

    from portal import rls
    from portal.checks import the_database_role_cannot_look_over_the_wall as check

    assert check(None, databases=["default"]) == []

    class Cursor:
        """Answers as PostgreSQL does for a superuser."""

        __enter__ = __exit__ = lambda self, *_args: self
        execute = lambda self, *_args: None  # noqa: E731
        fetchone = lambda self: ("postgres", True)  # noqa: E731

    monkeypatch.setattr(rls, "connection", type("Superuser", (), {"cursor": staticmethod(Cursor)}))
    with pytest.raises(ImproperlyConfigured, match="ignores row-level security"):
        rls.refuse_privileged_role()
    assert [error.id for error in check(None, databases=["default"])] == ["portal.E002"]
