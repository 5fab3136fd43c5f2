"""The experiments app."""

from django.apps import AppConfig


class ExperimentsConfig(AppConfig):
    """Named so that Django finds it."""

    name = "experiments"
