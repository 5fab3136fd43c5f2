"""Versions that the queue imported and the doctor examined, for tests."""

from __future__ import annotations

from datasets_app import tasks
from datasets_app.models import DatasetVersion, DoctorReport
from portal.rls import all_teams, team_scope


def examined(version: DatasetVersion) -> DoctorReport:
    """Let the queue import and examine a version; return its report."""
    tasks.import_version(str(version.pk))
    with team_scope(version.team_id):
        queued = DatasetVersion.unscoped.get(pk=version.pk).doctor_reports.get()
    tasks.examine_version(str(queued.pk))
    with all_teams("test"):
        found = DoctorReport.unscoped.select_related("version__team", "version__dataset", "team").get(pk=queued.pk)
    assert found.status == DoctorReport.Status.READY, found.error
    return found
