"""Addresses of the deployments pages and the playground."""

from django.urls import URLPattern, path

from deployments.views import deployments, platform, playground

app_name = "deployments"
urlpatterns: list[URLPattern] = [
    path("platform/deployments/", platform.index, name="platform_deployments"),
    path("platform/deployments/<uuid:pk>/stop/", platform.stop, name="platform_deployments_stop"),
    path("t/<slug:team>/deployments/", deployments.index, name="list"),
    path("t/<slug:team>/deployments/new/", deployments.deploy, name="deploy"),
    path("t/<slug:team>/deployments/<uuid:pk>/", deployments.detail, name="detail"),
    path("t/<slug:team>/deployments/<uuid:pk>/state/", deployments.state, name="state"),
    path("t/<slug:team>/deployments/<uuid:pk>/stop/", deployments.stop, name="stop"),
    path("t/<slug:team>/deployments/<uuid:pk>/start/", deployments.start, name="start"),
    path("t/<slug:team>/deployments/<uuid:pk>/delete/", deployments.delete, name="delete"),
    path("t/<slug:team>/deployment-versions/<uuid:pk>/promote/", deployments.promote, name="promote"),
    path("t/<slug:team>/playground/", playground.page, name="playground"),
    path("t/<slug:team>/playground/chat/", playground.chat, name="chat"),
    path("t/<slug:team>/playground/warm/", playground.warm, name="warm"),
    path("t/<slug:team>/playground/sample/", playground.sample, name="sample"),
]
