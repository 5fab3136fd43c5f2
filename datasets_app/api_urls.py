"""Addresses of the datasets_app app under /api/."""

from django.urls import URLPattern, path

from datasets_app import api, api_doctor, api_rows, api_uploads, api_versions

app_name = "datasets-api"
urlpatterns: list[URLPattern] = [
    path("datasets/", api.DatasetList.as_view(), name="list"),
    path("uploads/", api_uploads.Uploads.as_view(), name="uploads"),
    path("uploads/<uuid:pk>/", api_uploads.Upload.as_view(), name="upload"),
    path("datasets/<uuid:pk>/", api.DatasetDetail.as_view(), name="detail"),
    path("datasets/<uuid:pk>/versions/", api.VersionCreate.as_view(), name="versions"),
    path("dataset-versions/<uuid:pk>/", api.VersionDetail.as_view(), name="version"),
    path("dataset-versions/<uuid:pk>/rows/", api.VersionRows.as_view(), name="rows"),
    path("dataset-versions/<uuid:pk>/doctor/", api_doctor.VersionDoctor.as_view(), name="doctor"),
    path(
        "dataset-versions/<uuid:pk>/doctor/findings/<slug:code>/", api_doctor.VersionFinding.as_view(), name="finding"
    ),
    path("dataset-versions/<uuid:pk>/doctor/fixes/", api_doctor.VersionFixes.as_view(), name="fixes"),
    path("dataset-versions/<uuid:pk>/schema/", api_doctor.VersionSchema.as_view(), name="schema"),
    path("dataset-versions/<uuid:pk>/rows/search/", api_rows.RowSearch.as_view(), name="row_search"),
    path("dataset-versions/<uuid:pk>/rows/<int:row_id>/", api_rows.RowDetail.as_view(), name="row"),
    path("dataset-versions/<uuid:pk>/changes/", api_rows.RowChanges.as_view(), name="changes"),
    path("dataset-versions/<uuid:pk>/derive/", api_rows.Derive.as_view(), name="derive"),
    path("dataset-versions/<uuid:pk>/diff/", api_versions.VersionDiff.as_view(), name="diff"),
    path("dataset-versions/<uuid:pk>/download/", api_versions.VersionDownload.as_view(), name="download"),
    path("dataset-versions/<uuid:pk>/restore/", api_versions.VersionRestore.as_view(), name="restore_version"),
    path("datasets/deleted/", api_versions.DeletedDatasets.as_view(), name="deleted"),
    path("datasets/<uuid:pk>/restore/", api_versions.DatasetRestore.as_view(), name="restore"),
]
