"""Addresses of the datasets_app app."""

from django.urls import URLPattern, path  # noqa: F401

app_name = "datasets-api"
urlpatterns: list[URLPattern] = []
