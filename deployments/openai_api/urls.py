"""Addresses under /v1."""

from django.urls import URLPattern, path

from deployments.openai_api import views

app_name = "openai"
urlpatterns: list[URLPattern] = [
    path("chat/completions", views.ChatCompletions.as_view(), name="chat"),
    path("completions", views.Completions.as_view(), name="completions"),
    path("models", views.ModelList.as_view(), name="models"),
    path("models/<path:model_id>", views.ModelDetail.as_view(), name="model"),
]
