"""Addresses of the datasets_app app."""

from django.urls import URLPattern, path

from datasets_app.views import datasets, deleted, diff, doctor, imports, remote, rows, schemas, uploads, versions

app_name = "datasets"
urlpatterns: list[URLPattern] = [
    path("t/<slug:team>/datasets/", datasets.index, name="list"),
    path("t/<slug:team>/datasets/import/", imports.new_dataset, name="import"),
    path("t/<slug:team>/uploads/", uploads.uploads, name="uploads"),
    path("t/<slug:team>/uploads/<uuid:pk>/", uploads.upload, name="upload"),
    path("t/<slug:team>/datasets/deleted/", deleted.index, name="deleted"),
    path("t/<slug:team>/datasets/<uuid:pk>/restore/", deleted.restore_dataset, name="restore"),
    path("t/<slug:team>/datasets/<uuid:pk>/purge/", deleted.purge_dataset, name="purge"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/restore/", deleted.restore_version, name="restore_version"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/purge/", deleted.purge_version, name="purge_version"),
    path("t/<slug:team>/datasets/import/<slug:kind>/", remote.new_dataset, name="import_from"),
    path("t/<slug:team>/datasets/<uuid:pk>/import/<slug:kind>/", remote.new_version, name="new_version_from"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/fetching/", remote.fetching, name="fetching"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/fetch-again/", remote.again, name="fetch_again"),
    path("t/<slug:team>/datasets/<uuid:pk>/", datasets.detail, name="detail"),
    path("t/<slug:team>/datasets/<uuid:pk>/diff/", diff.diff, name="diff"),
    path("t/<slug:team>/datasets/<uuid:pk>/delete/", datasets.delete, name="delete"),
    path("t/<slug:team>/datasets/<uuid:pk>/import/", imports.new_version, name="new_version"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/", versions.version, name="version"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/mapping/", imports.mapping, name="mapping"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/progress/", versions.progress, name="progress"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/without-faulty/", imports.without_faulty, name="without_faulty"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/discard/", versions.discard, name="discard"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/rows/", rows.change_rows, name="change_rows"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/rows/<int:row_id>/", rows.row, name="row"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/rows/<int:row_id>/change/", rows.change_row, name="change_row"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/changes/", rows.changes, name="changes"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/changes/save/", rows.save_changes, name="save_changes"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/changes/discard/", rows.discard_changes, name="discard_changes"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/rows/<slug:split>.<slug:kind>", versions.download, name="download"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/doctor/", doctor.report, name="doctor"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/doctor/progress/", doctor.progress, name="doctor_progress"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/doctor/start/", doctor.start, name="doctor_start"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/doctor/cancel/", doctor.cancel, name="doctor_cancel"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/doctor/fix/", doctor.fix, name="doctor_fix"),
    path(
        "t/<slug:team>/dataset-versions/<uuid:pk>/doctor/findings/<slug:code>/", doctor.finding, name="doctor_finding"
    ),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/schema/", schemas.schema, name="schema"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/schema/edit/", schemas.edit, name="schema_edit"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/schema/rename/", schemas.rename, name="schema_rename"),
    path("t/<slug:team>/dataset-versions/<uuid:pk>/schema.json", schemas.export, name="schema_export"),
]
