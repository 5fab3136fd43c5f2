"""The doctor's report as a task: it starts by itself, ends READY or FAILED, and can be lost, repeated or cancelled."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from datasets_app import tasks
from datasets_app.claims import ClaimLost
from datasets_app.doctor_reports import lifecycle, services
from datasets_app.models import DoctorReport
from portal.errors import IllegalTransition, InvalidInput
from portal.rls import team_scope
from tests.ready import import_tickets

pytestmark = pytest.mark.django_db
Status = DoctorReport.Status


@pytest.fixture
def report(team, base_model, actor, ready_version) -> DoctorReport:
    """A report that waits for a worker."""
    with team_scope(team.pk):
        ready_version.doctor_reports.all().delete()
        return services.start_report(version=ready_version, actor=actor)


def reloaded(report: DoctorReport) -> DoctorReport:
    with team_scope(report.team_id):
        return DoctorReport.unscoped.select_related("version__team", "team").get(pk=report.pk)


def test_every_import_queues_a_report_with_the_smallest_base_model(team, actor, base_model, tmp_path):
    version = import_tickets(team, actor, tmp_path)
    with team_scope(team.pk):
        report = version.doctor_reports.get()
    assert (report.status, report.base_model, report.options) == (Status.QUEUED, base_model, {})


def test_the_task_keeps_report_and_side_files(report):
    tasks.examine_version(str(report.pk))
    done = reloaded(report)
    assert (done.status, done.progress, done.error) == (Status.READY, 100, {})
    assert done.report["rows"] == {"train": 20, "validation": 4}
    assert done.folder.is_dir()
    assert [path.name for path in done.folder.parent.iterdir()] == [str(done.pk)]


def test_a_version_that_is_deleted_meanwhile_does_not_stop_the_worker(report):
    job = lifecycle.claim_report(report.pk)
    assert job is not None
    job.work_folder.mkdir(parents=True)
    with team_scope(report.team_id):
        type(report.version).with_deleted.filter(pk=report.version_id).update(deleted_at=timezone.now())
    lifecycle.finish_report(job, {"findings": [], "schema": {"type": "object"}})
    with team_scope(report.team_id):
        assert DoctorReport.unscoped.get(pk=report.pk).status == Status.READY


def test_a_message_that_comes_twice_changes_nothing(report):
    tasks.examine_version(str(report.pk))
    ended_at = reloaded(report).ended_at
    tasks.examine_version(str(report.pk))
    assert reloaded(report).ended_at == ended_at


def test_missing_rows_fail_with_a_sentence(report, client_for, bob):
    with team_scope(report.team_id):
        for split in ("train", "validation"):
            reloaded(report).version.rows_path(split).unlink()
    tasks.examine_version(str(report.pk))
    assert (reloaded(report).status, reloaded(report).error["code"]) == (Status.FAILED, "rows_missing")
    page = client_for(bob).get(f"/t/{report.team.slug}/dataset-versions/{report.version_id}/doctor/")
    assert "The last examination failed" in page.content.decode()
    assert "missing on this server" in page.content.decode()


def test_a_worker_that_fell_silent_is_replaced_and_writes_nothing_any_more(report):
    first = lifecycle.claim_report(report.pk)
    assert lifecycle.claim_report(report.pk) is None
    with team_scope(report.team_id):
        long_ago = timezone.now() - lifecycle.STALLED_AFTER - timedelta(seconds=1)
        DoctorReport.unscoped.filter(pk=report.pk).update(heartbeat_at=long_ago)
    assert lifecycle.requeue_stalled_reports() == 1
    assert lifecycle.requeue_stalled_reports() == 0
    second = lifecycle.claim_report(report.pk)
    assert second is not None
    with pytest.raises(ClaimLost):
        lifecycle.report_progress(first, 0.5)
    lifecycle.report_progress(second, 0.5)
    assert reloaded(report).progress == 50


def test_rows_that_kill_their_workers_fail_in_the_end(report):
    for _attempt in range(lifecycle.MAX_ATTEMPTS):
        assert lifecycle.claim_report(report.pk) is not None
        with team_scope(report.team_id):
            DoctorReport.unscoped.filter(pk=report.pk).update(claim=None)
    assert lifecycle.claim_report(report.pk) is None
    assert reloaded(report).error == {"code": "doctor_gave_up", "params": {"attempts": 3}}


def test_cancelling_stops_the_worker_and_makes_room(report, actor, team):
    job = lifecycle.claim_report(report.pk)
    with team_scope(team.pk):
        with pytest.raises(IllegalTransition, match="examined already"):
            services.start_report(version=reloaded(report).version, actor=actor)
        services.cancel_report(report=reloaded(report), actor=actor)
        with pytest.raises(IllegalTransition, match="over already"):
            services.cancel_report(report=reloaded(report), actor=actor)
        again = services.start_report(version=reloaded(report).version, actor=actor, options={"max_length": 64})
    with pytest.raises(ClaimLost):
        lifecycle.report_progress(job, 0.5)
    assert (reloaded(report).status, again.options) == (Status.CANCELLED, {"max_length": 64})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"options": {"speed": 1}}, "no option 'speed'"),
        ({"options": {"max_length": 1}}, "from 16 to"),
        ({"options": {"rare_below": True}}, "whole number"),
        ({"base_model": "gpt-9"}, "no allowed base model"),
        ({"base_model": "\0"}, "no allowed base model"),
    ],
)
def test_what_cannot_be_is_refused(report, actor, team, given, words):
    with team_scope(team.pk), pytest.raises(InvalidInput, match=words):
        services.start_report(version=report.version, actor=actor, **given)


def test_pages_from_waiting_to_report(report, client_for, alice, bob):
    address = f"/t/{report.team.slug}/dataset-versions/{report.version_id}/doctor/"
    viewer, editor = client_for(bob), client_for(alice)
    assert "Waiting for a free worker" in viewer.get(address).content.decode()
    assert viewer.get(f"{address}progress/").status_code == 200
    tasks.examine_version(str(report.pk))
    assert viewer.get(f"{address}progress/").status_code == 286
    assert "Ready to train" in viewer.get(address).content.decode()
    assert editor.post(f"{address}start/", {"max_length": "abc"}, follow=True).context["latest"].status == Status.READY
    assert editor.post(f"{address}start/", {"max_length": "64"}, follow=True).context["latest"].is_open
    assert editor.post(f"{address}cancel/", follow=True).context["latest"].status == Status.CANCELLED
