"""The gpu_worker app."""

from django.apps import AppConfig


class GpuWorkerConfig(AppConfig):
    """Named so that Django finds it."""

    name = "gpu_worker"
