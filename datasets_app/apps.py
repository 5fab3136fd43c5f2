"""The datasets_app app."""

from django.apps import AppConfig


class DatasetsConfig(AppConfig):
    """Named so that Django finds it."""

    name = "datasets_app"
