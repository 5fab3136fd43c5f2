"""The deployments app."""

from django.apps import AppConfig


class DeploymentsConfig(AppConfig):
    """Named so that Django finds it."""

    name = "deployments"
