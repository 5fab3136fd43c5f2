"""Addresses of the resource API of deployments."""

from django.urls import URLPattern, path

from deployments import api

app_name = "deployments-api"
urlpatterns: list[URLPattern] = [
    path("deployments/", api.Deployments.as_view(), name="deployments"),
    path("deployments/<uuid:pk>/", api.DeploymentDetail.as_view(), name="deployment"),
    path("deployments/<uuid:pk>/promote/", api.DeploymentPromote.as_view(), name="deployment_promote"),
    path("deployments/<uuid:pk>/stop/", api.DeploymentStop.as_view(), name="deployment_stop"),
    path("deployments/<uuid:pk>/start/", api.DeploymentStart.as_view(), name="deployment_start"),
]
