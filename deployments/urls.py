"""Addresses of the deployments pages and the playground."""

from django.urls import URLPattern, path

from deployments.views import deployments, exports, platform, playground, request_log, versions, webhooks

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
    path("t/<slug:team>/deployment-versions/<uuid:pk>/promote/", versions.promote, name="promote"),
    path("t/<slug:team>/deployment-versions/<uuid:pk>/canary/", versions.canary, name="canary"),
    path("t/<slug:team>/deployments/<uuid:pk>/canary/end/", versions.canary_end, name="canary_end"),
    path("t/<slug:team>/deployments/<uuid:pk>/traffic/", deployments.traffic_points, name="traffic"),
    path("t/<slug:team>/deployments/<uuid:pk>/log/", request_log.index, name="log"),
    path("t/<slug:team>/deployments/<uuid:pk>/log/settings/", request_log.settings, name="log_settings"),
    path("t/<slug:team>/deployments/<uuid:pk>/log/delete/", request_log.delete_texts, name="log_delete"),
    path("t/<slug:team>/deployments/<uuid:pk>/log/take/", request_log.take, name="log_take"),
    path("t/<slug:team>/deployments/<uuid:pk>/log/<int:record>/", request_log.record, name="log_record"),
    path("t/<slug:team>/runs/<uuid:pk>/exports/", exports.index, name="exports"),
    path("t/<slug:team>/runs/<uuid:pk>/exports/list/", exports.listed, name="exports_list"),
    path("t/<slug:team>/runs/<uuid:pk>/exports/adapter.zip", exports.adapter, name="export_adapter"),
    path("t/<slug:team>/runs/<uuid:pk>/model-card.md", exports.card, name="model_card"),
    path("t/<slug:team>/exports/<uuid:pk>/file/", exports.download, name="export_download"),
    path("t/<slug:team>/exports/<uuid:pk>/delete/", exports.delete, name="export_delete"),
    path("t/<slug:team>/deployments/rules/", versions.policy, name="policy"),
    path("t/<slug:team>/deployments/<uuid:pk>/sleep/", versions.sleep, name="sleep"),
    path("t/<slug:team>/deployments/<uuid:pk>/retirement/", versions.retirement, name="retirement"),
    path("t/<slug:team>/webhooks/", webhooks.index, name="webhooks"),
    path("t/<slug:team>/webhooks/<uuid:pk>/", webhooks.detail, name="webhooks_detail"),
    path("t/<slug:team>/webhooks/<uuid:pk>/test/", webhooks.test, name="webhooks_test"),
    path("t/<slug:team>/webhooks/<uuid:pk>/rotate/", webhooks.rotate, name="webhooks_rotate"),
    path("t/<slug:team>/webhooks/<uuid:pk>/switch/", webhooks.switch, name="webhooks_switch"),
    path("t/<slug:team>/webhooks/<uuid:pk>/delete/", webhooks.delete, name="webhooks_delete"),
    path("t/<slug:team>/webhook-deliveries/<uuid:pk>/resend/", webhooks.resend, name="webhooks_resend"),
    path("t/<slug:team>/playground/", playground.page, name="playground"),
    path("t/<slug:team>/playground/chat/", playground.chat, name="chat"),
    path("t/<slug:team>/playground/warm/", playground.warm, name="warm"),
    path("t/<slug:team>/playground/sample/", playground.sample, name="sample"),
]
