"""Addresses of the datasets_app app under /api/."""

from django.urls import URLPattern, path

from datasets_app import api, api_uploads

app_name = "datasets-api"
urlpatterns: list[URLPattern] = [
    path("datasets/", api.DatasetList.as_view(), name="list"),
    path("uploads/", api_uploads.Uploads.as_view(), name="uploads"),
    path("uploads/<uuid:pk>/", api_uploads.Upload.as_view(), name="upload"),
    path("datasets/<uuid:pk>/", api.DatasetDetail.as_view(), name="detail"),
    path("datasets/<uuid:pk>/versions/", api.VersionCreate.as_view(), name="versions"),
    path("dataset-versions/<uuid:pk>/", api.VersionDetail.as_view(), name="version"),
    path("dataset-versions/<uuid:pk>/rows/", api.VersionRows.as_view(), name="rows"),
]
