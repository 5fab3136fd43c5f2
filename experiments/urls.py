"""Addresses of the experiments app."""

from django.urls import URLPattern, path  # noqa: F401

app_name = "experiments"
urlpatterns: list[URLPattern] = []
