"""Addresses of the datasets_app app under /api/."""

from django.urls import URLPattern, path

from datasets_app import api

app_name = "datasets-api"
urlpatterns: list[URLPattern] = [
    path("datasets/", api.DatasetList.as_view(), name="list"),
    path("datasets/<uuid:pk>/", api.DatasetDetail.as_view(), name="detail"),
    path("datasets/<uuid:pk>/versions/", api.VersionCreate.as_view(), name="versions"),
    path("dataset-versions/<uuid:pk>/", api.VersionDetail.as_view(), name="version"),
    path("dataset-versions/<uuid:pk>/rows/", api.VersionRows.as_view(), name="rows"),
]
