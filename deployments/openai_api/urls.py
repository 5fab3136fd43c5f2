"""Addresses under /v1."""

from django.urls import URLPattern, path  # noqa: F401

app_name = "openai"
urlpatterns: list[URLPattern] = []
