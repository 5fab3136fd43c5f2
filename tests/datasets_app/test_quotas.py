"""Storage: what does not fit is refused before it is read, and nothing of it is left."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from datasets_app import conversion, deletion, services
from datasets_app.models import Split
from portal import usage
from portal.errors import QuotaExceeded
from portal.models import Quota
from portal.rls import team_scope
from tests.ready import TICKETS, write_csv


@pytest.fixture
def table(tmp_path):
    return write_csv(tmp_path / "table.csv", TICKETS)


def limit(team, value: int | None) -> None:
    with team_scope(team.pk):
        team.teamlimits.update_or_create(kind=Quota.STORAGE_BYTES, defaults={"value": value})


def test_what_does_not_fit_is_refused_before_it_is_read(team, actor, table, monkeypatch):
    size = table.stat().st_size
    limit(team, size)
    with team_scope(team.pk):
        services.start_import(team=team, actor=actor, name="First", files={Split.TRAIN: table})
        assert usage.storage_bytes(team) == size
    monkeypatch.setattr(conversion, "check", lambda *args, **more: pytest.fail("was read"))
    for call in (services.start_import, services.import_files):
        with team_scope(team.pk), pytest.raises(QuotaExceeded) as refused:
            call(team=team, actor=actor, name="Second", files={Split.TRAIN: table})
        assert refused.value.status == 429
        assert "Delete datasets" in refused.value.message
    with team_scope(team.pk):
        assert (team.datasets.count(), team.datasetversions.count()) == (1, 1)
        deletion.delete_dataset(dataset=team.datasets.get(), actor=actor)
        services.start_import(team=team, actor=actor, name="Second", files={Split.TRAIN: table})


def test_the_api_and_the_page_say_so(team, api, client_for, alice, table):
    limit(team, 10)
    for client, path in ((api, "/api/datasets/"), (client_for(alice), f"/t/{team.slug}/datasets/import/")):
        with table.open("rb") as file:
            answer = client.post(path, {"name": "Tickets", "train_file": file})
        assert answer.status_code in (400, 429)
        assert "10 bytes" in answer.content.decode()
    assert answer.status_code != 500
    assert not list((team.folder / "datasets").glob("*"))


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("call", [services.start_import, services.import_files])
def test_many_at_the_last_place(team, actor, table, call):
    size = table.stat().st_size
    limit(team, 3 * size + 10)
    barrier = threading.Barrier(10)

    def upload(number: int) -> bool:
        try:
            barrier.wait()
            with team_scope(team.pk):
                call(team=team, actor=actor, name=f"Tickets {number}", files={Split.TRAIN: table})
        except QuotaExceeded:
            return False
        finally:
            connection.close()
        return True

    with ThreadPoolExecutor(10) as threads:
        passed = sum(threads.map(upload, range(10)))
    with team_scope(team.pk):
        assert passed == team.datasetversions.count() == len(list((team.folder / "datasets").glob("*"))) == 3
        assert usage.storage_bytes(team) == 3 * size
