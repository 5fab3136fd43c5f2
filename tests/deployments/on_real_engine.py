"""Deployments on the project's own engine: what a node's agent does with the adapters that are wanted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deployments import engine_client, lifecycle
from deployments.engine_client import EngineTarget
from deployments.models import Engine
from portal.models import BaseModel, Node
from tests.gpu_worker.engine.engine_process import KEY, EngineProcess


def announce(process: EngineProcess, node: Node, base_model: BaseModel) -> EngineTarget:
    """Write into the database that the engine is ready, and return where it is."""
    target = EngineTarget(process.url, KEY)
    Engine.objects.create(
        node=node, base_model=base_model, status=Engine.Status.READY, url=target.url, access_key=target.access_key
    )
    return target


def load_wanted(target: EngineTarget, node: Node, folders: Mapping[str, Path]) -> None:
    """Load every adapter that a deployment wants from the folder of its engine name, and let the versions go live."""
    for placement in lifecycle.placements_of(node):
        engine_client.load_adapter(target, name=placement.engine_name, folder=folders[placement.engine_name])
        lifecycle.placement_ready(placement.id)
    lifecycle.finish_promotions()
