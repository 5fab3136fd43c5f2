"""Addresses of the deployments app."""

from django.urls import URLPattern, path  # noqa: F401

app_name = "deployments"
urlpatterns: list[URLPattern] = []
