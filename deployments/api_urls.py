"""Addresses of the resource API of deployments."""

from django.urls import URLPattern, path

from deployments import api, api_exports, api_gate, api_log

app_name = "deployments-api"
urlpatterns: list[URLPattern] = [
    path("deployments/", api.Deployments.as_view(), name="deployments"),
    path("deployments/<uuid:pk>/", api.DeploymentDetail.as_view(), name="deployment"),
    path("deployments/<uuid:pk>/promote/", api.DeploymentPromote.as_view(), name="deployment_promote"),
    path("deployments/<uuid:pk>/canary/", api.DeploymentCanary.as_view(), name="deployment_canary"),
    path("deployments/<uuid:pk>/stop/", api.DeploymentStop.as_view(), name="deployment_stop"),
    path("deployments/<uuid:pk>/start/", api.DeploymentStart.as_view(), name="deployment_start"),
    path("deployments/<uuid:pk>/wake/", api.DeploymentWake.as_view(), name="deployment_wake"),
    path("deployments/<uuid:pk>/check/", api_gate.VersionCheck.as_view(), name="deployment_check"),
    path("deployments/<uuid:pk>/requests/", api_log.Requests.as_view(), name="deployment_requests"),
    path("deployments/<uuid:pk>/requests/<int:record>/", api_log.RequestDetail.as_view(), name="deployment_request"),
    path("deployments/<uuid:pk>/log/", api_log.LogSettings.as_view(), name="deployment_log"),
    path("promotion-policy/", api_gate.Policy.as_view(), name="policy"),
    path("runs/<uuid:pk>/exports/", api_exports.RunExports.as_view(), name="exports"),
    path("exports/<uuid:pk>/", api_exports.ExportDetail.as_view(), name="export"),
    path("exports/<uuid:pk>/file/", api_exports.ExportFile.as_view(), name="export_file"),
]
