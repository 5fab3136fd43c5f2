"""The operators' commands."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from portal.models import BaseModel, Team, User
from portal.rls import team_scope


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_createteam_makes_team_owner_and_password(db):
    out = run("createteam", "Data & Co", "--owner", "Eve@Example.org")
    team, eve = Team.objects.get(slug="data-co"), User.objects.get(email="eve@example.org")
    with team_scope(team.pk):
        assert team.memberships.get(user=eve).role == "admin"
    password = re.search(r"password (\S+)", out).group(1)
    assert eve.check_password(password)
    assert "password" not in run("createteam", "Second", "--owner", "eve@example.org")


@pytest.mark.parametrize("arguments", [("Data", "--owner", "nonsense"), ("!!!", "--owner", "a@example.org")])
def test_createteam_refuses_nonsense_and_leaves_nothing(db, arguments):
    with pytest.raises(CommandError):
        run("createteam", *arguments)
    assert not Team.objects.exists()


def test_createtoken_ends_with_a_working_token(team):
    text = run("createtoken", "--team", team.name).split()[-1]
    answer = Client(headers={"Authorization": f"Bearer {text}"}).get("/api/base-models/")
    assert answer.status_code == 200
    weak = run("createtoken", "--team", team.slug, "--scopes", "inference").split()[-1]
    assert Client(headers={"Authorization": f"Bearer {weak}"}).get("/api/base-models/").status_code == 403


def test_createtoken_names_the_missing_team(db):
    with pytest.raises(CommandError, match="no team 'Nobody'"):
        run("createtoken", "--team", "Nobody")


def test_basemodels_registers_allows_and_forbids(db, settings, tiny_model_folder):
    folder = settings.DATA_DIR / "models" / "tiny-copy"
    import shutil

    shutil.copytree(tiny_model_folder, folder)
    run("basemodels", "add-folder", "tiny-copy")
    model = BaseModel.objects.get(slug="tiny-copy")
    assert not model.is_allowed
    assert model.parameters > 1000
    assert len(model.revision) == 64
    run("basemodels", "allow", "tiny-copy")
    assert "tiny-copy" in run("basemodels", "list")
    model.refresh_from_db()
    assert model.is_allowed
    run("basemodels", "forbid", "tiny-copy")
    model.refresh_from_db()
    assert not model.is_allowed
    (folder / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CommandError):
        run("basemodels", "add-folder", "tiny-copy")


def test_createadmin_makes_the_first_platform_admin(db):
    out = run("createadmin", "Ops@Example.org")
    password = re.search(r"password (\S+)", out).group(1)
    person = User.objects.get(email="ops@example.org")
    assert person.is_platform_admin
    assert person.check_password(password)
    assert "password" not in run("createadmin", "ops@example.org")
    with pytest.raises(CommandError):
        run("createadmin", "nonsense")
