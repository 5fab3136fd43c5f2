"""Addresses under /v1."""

from django.urls import URLPattern, path

from deployments.openai_api import batch_views, file_views, grader_views, job_views, model_views, views, webhook_views

app_name = "openai"
urlpatterns: list[URLPattern] = [
    path("chat/completions", views.ChatCompletions.as_view(), name="chat"),
    path("completions", views.Completions.as_view(), name="completions"),
    path("models", model_views.ModelList.as_view(), name="models"),
    path("models/<path:model_id>", model_views.ModelDetail.as_view(), name="model"),
    path("decisions", views.Decisions.as_view(), name="decisions"),
    path("batches", batch_views.Batches.as_view(), name="batches"),
    path("batches/<str:batch_id>", batch_views.Batch.as_view(), name="batch"),
    path("batches/<str:batch_id>/cancel", batch_views.BatchCancel.as_view(), name="batch_cancel"),
    path("files", file_views.Files.as_view(), name="files"),
    path("files/<str:file_id>", file_views.File.as_view(), name="file"),
    path("files/<str:file_id>/content", file_views.FileContent.as_view(), name="file_content"),
    path("webhook_endpoints", webhook_views.WebhookEndpoints.as_view(), name="webhook_endpoints"),
    path("webhook_endpoints/<str:endpoint_id>", webhook_views.WebhookEndpointDetail.as_view(), name="webhook_endpoint"),
    path(
        "webhook_endpoints/<str:endpoint_id>/rotate_secret",
        webhook_views.WebhookSecretRotation.as_view(),
        name="webhook_rotate_secret",
    ),
    path("webhook_endpoints/<str:endpoint_id>/test", webhook_views.WebhookTest.as_view(), name="webhook_test"),
    path("webhook_event_types", webhook_views.WebhookEventTypes.as_view(), name="webhook_event_types"),
    path("fine_tuning/alpha/graders/validate", grader_views.GraderValidate.as_view(), name="grader_validate"),
    path("fine_tuning/alpha/graders/run", grader_views.GraderRun.as_view(), name="grader_run"),
    path("fine_tuning/jobs", job_views.Jobs.as_view(), name="jobs"),
    path("fine_tuning/jobs/<str:job_id>", job_views.Job.as_view(), name="job"),
    path("fine_tuning/jobs/<str:job_id>/events", job_views.JobEvents.as_view(), name="job_events"),
    path("fine_tuning/jobs/<str:job_id>/checkpoints", job_views.JobCheckpoints.as_view(), name="job_checkpoints"),
    path("fine_tuning/jobs/<str:job_id>/cancel", job_views.JobCancel.as_view(), name="job_cancel"),
    path("fine_tuning/jobs/<str:job_id>/pause", job_views.JobPause.as_view(), name="job_pause"),
    path("fine_tuning/jobs/<str:job_id>/resume", job_views.JobResume.as_view(), name="job_resume"),
]
