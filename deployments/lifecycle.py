"""What node agents report and ask: nodes, engines, placements, and promotions that waited for an adapter.

Each function opens its own short transaction over all teams and changes rows by conditional updates, so it may be
called twice, late, or after a restart.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone

from deployments import canaries, history, placing
from deployments.models import Deployment, DeploymentVersion, Engine, Placement, today
from experiments.models import Adapter
from experiments.scoring.calibration import EXACT
from portal.actors import Actor
from portal.models import BaseModel, Node
from portal.rls import all_teams

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlacementState:
    """One placement of a node, as its agent needs it."""

    id: UUID
    base_model: str
    engine_name: str
    folder: Path
    sha256: str
    status: str
    is_wanted: bool


def is_wanted() -> Q:
    """Return the condition under which a placement has to be loaded: kept for a while, or needed by a deployment.

    It is never stored but always asked, so that no message between services and agents can be lost.
    """
    return Q(wanted_until__gt=Now()) | Q(_is_needed("adapter_id"))


def register_node(
    *,
    name: str,
    address: str,
    slots: int,
    device: str,
    memory_bytes: int,
    gpus: int = 0,
    joins_slots: bool = False,
) -> Node:
    """Announce a node whose agent has just started: nothing is loaded on it yet.

    `joins_slots`: one run may hold several of its slots.
    """
    facts = {
        "address": address, "slots": slots, "device": device, "memory_bytes": memory_bytes, "gpus": gpus,
        "joins_slots": joins_slots,
    }  # fmt: skip
    with all_teams("a node starts empty, whoever had adapters on it"):
        if Node.objects.filter(name=name, slots_are_set=True).exists():
            del facts["slots"]  # a platform admin chose another number
        node, _made = Node.objects.update_or_create(
            name=name, defaults={**facts, "started_at": timezone.now(), "heartbeat_at": timezone.now()}
        )
        node.engines.all().delete()
        Placement.unscoped.filter(node=node).update(status=Placement.Status.PENDING, error="", ready_at=None)
    beat(node)
    return node


def beat(node: Node) -> bool:
    """Say that the node is alive, by the database's clock; return False if an admin removed it meanwhile."""
    return Node.objects.filter(pk=node.pk).update(heartbeat_at=Now()) == 1


def leave(node: Node) -> None:
    """Say that the node goes on purpose: nobody needs to wait for the timeout."""
    with all_teams("a node leaves, whoever had adapters on it"):
        node.engines.all().delete()
        Placement.unscoped.filter(node=node).update(status=Placement.Status.PENDING, ready_at=None)
        Node.objects.filter(pk=node.pk).update(heartbeat_at=None)


def engine_starts(
    *, node: Node, base_model: BaseModel, access_key: str, scores_values: bool = True, weights: str = EXACT
) -> None:
    """Note that an engine process was started; what an earlier one had loaded is gone with it."""
    started = {
        "status": Engine.Status.STARTING,
        "url": "",
        "access_key": access_key,
        "scores_values": scores_values,
        "weights": weights,
        "self_check": "",
        "started_at": timezone.now(),
    }
    with all_teams("an engine serves adapters of many teams"):
        Engine.objects.update_or_create(node=node, base_model=base_model, defaults=started)
        _reset_placements(node, base_model)


def engine_ready(*, node: Node, base_model: BaseModel, url: str) -> None:
    """Publish the address of an engine that answers."""
    _engine(node, base_model).update(status=Engine.Status.READY, url=url, error="", heartbeat_at=Now())


def engine_beats(*, node: Node, base_model: BaseModel, self_check: str) -> None:
    """Note that an engine answered its health check, and what it says of its answers, a word of `Engine.SelfCheck`."""
    known = self_check if self_check in Engine.SelfCheck.values else ""
    _engine(node, base_model).update(heartbeat_at=Now(), self_check=known)


def engine_failed(*, node: Node, base_model: BaseModel, sentence: str) -> None:
    """Note that an engine died or does not start; whoever waits for a placement on it learns why."""
    with all_teams("an engine serves adapters of many teams"):
        _engine(node, base_model).update(status=Engine.Status.FAILED, url="", error=sentence)
        waiting = Placement.unscoped.filter(node=node, adapter__base_model=base_model)
        waiting.update(status=Placement.Status.FAILED, error=sentence, ready_at=None)


def engine_gone(*, node: Node, base_model: BaseModel) -> None:
    """Forget an engine that nobody needs any more."""
    with all_teams("an engine serves adapters of many teams"):
        _engine(node, base_model).delete()
        _reset_placements(node, base_model)


def base_models_needed(node: Node) -> list[BaseModel]:
    """Return the base models that need an engine here: the shipped ones, and those of wanted placements."""
    with all_teams("node agent: which engines are needed"):
        wanted = Placement.unscoped.filter(is_wanted(), node=node, adapter__base_model=OuterRef("pk"))
        shipped = Q(source=BaseModel.Source.EMBEDDED, is_allowed=True)
        return list(BaseModel.objects.filter(shipped | Q(Exists(wanted))))


def placements_of(node: Node) -> list[PlacementState]:
    """Return all placements of a node with what their agent has to know."""
    with all_teams("node agent: which adapters to load and unload"):
        rows = Placement.unscoped.filter(node=node).annotate(wanted=is_wanted()).order_by("created_at")
        return [
            PlacementState(
                id=row.pk,
                base_model=row.adapter.base_model.slug,
                engine_name=row.adapter.engine_name,
                folder=row.adapter.folder,
                sha256=row.adapter.sha256,
                status=row.status,
                is_wanted=bool(row.wanted),  # NULL where wanted_until is empty
            )
            for row in rows.select_related("adapter__base_model", "adapter__team")
        ]


def placement_ready(placement_id: UUID) -> None:
    """Note that a placement's adapter is loaded."""
    with all_teams("node agent reports a loaded adapter"):
        Placement.unscoped.filter(pk=placement_id).exclude(status=Placement.Status.READY).update(
            status=Placement.Status.READY, error="", ready_at=Now()
        )


def placement_failed(placement_id: UUID, sentence: str) -> None:
    """Note why a placement's adapter cannot be loaded; it is not tried again until somebody asks for it."""
    with all_teams("node agent reports an adapter that cannot be loaded"):
        Placement.unscoped.filter(pk=placement_id).update(status=Placement.Status.FAILED, error=sentence, ready_at=None)


def forget_placement(placement_id: UUID) -> bool:
    """Delete a placement unless it is wanted again by now; return whether it is gone."""
    with all_teams("node agent unloads what nobody wants"):
        # Lock first and ask afterwards: a service that is just renewing the wish holds the lock until it has committed.
        if Placement.unscoped.select_for_update().filter(pk=placement_id).first() is None:
            return True
        if Placement.unscoped.filter(is_wanted(), pk=placement_id).exists():
            return False
        Placement.unscoped.filter(pk=placement_id).delete()
        return True


def place_missing() -> int:
    """Make placements for running deployments that have none, such as those made while no node was there."""
    placed = Placement.unscoped.filter(adapter=OuterRef("pk"))
    with all_teams("running deployments of all teams need their adapters loaded"):
        missing = Adapter.unscoped.filter(_is_needed("pk")).exclude(Exists(placed))
        adapters = list(missing.select_related("team", "base_model"))
        for adapter in adapters:
            placing.ensure_placement(adapter=adapter)
    return len(adapters)


def move_from_lost_nodes(node: Node) -> int:
    """Take over wanted placements of nodes that are gone and whose adapter is nowhere else; return how many."""
    elsewhere = Placement.unscoped.filter(adapter=OuterRef("adapter_id"), node__in=Node.objects.live())
    with all_teams("placements of a lost node move to a live one"):
        lost = (
            Placement.unscoped.select_for_update(of=("self",), skip_locked=True)
            .filter(is_wanted())
            .exclude(node__in=Node.objects.live())
            .exclude(Exists(elsewhere))
        )
        moved = 0
        for placement in lost.select_related("adapter__base_model"):
            # Every live agent asks, so each takes only what belongs to it by the same rule as for new placements.
            if placing.choose_node(placement.adapter.base_model).pk == node.pk:
                Placement.unscoped.filter(pk=placement.pk).update(
                    node=node, status=Placement.Status.PENDING, error="", ready_at=None
                )
                moved += 1
    return moved


def finish_promotions() -> int:
    """Put versions live that waited for their adapter to be loaded; return how many."""
    loaded = Placement.unscoped.filter(adapter=OuterRef("next_version__adapter_id"), status=Placement.Status.READY)
    with all_teams("promotions that waited for an adapter"):
        waiting = Deployment.unscoped.select_for_update(of=("self",), skip_locked=True).filter(
            Exists(loaded), is_running=True
        )
        finished = list(waiting.select_related("team", "next_version", "live_version__adapter"))
        for deployment in finished:
            assert deployment.next_version is not None
            put_live(deployment, deployment.next_version, Actor.system("node agent"))
    return len(finished)


def put_live(deployment: Deployment, version: DeploymentVersion, actor: Actor, *, reason: str = "") -> None:
    """Let a version answer from the next request on; the one before it stays loaded for a moment. Ends a canary."""
    canaries.end(deployment, actor)
    before = deployment.live_version
    deployment.live_version, deployment.next_version = version, None
    deployment.save(update_fields=["live_version", "next_version"])
    if version.first_live_at is None:
        version.first_live_at = timezone.now()
        version.save(update_fields=["first_live_at"])
    if before is not None and before.adapter_id != version.adapter_id:
        placing.drain(before.adapter)
    number_before = before.number if before is not None else None
    history.note(deployment, actor, "deployment.promoted", version=version.number, before=number_before, reason=reason)


def _engine(node: Node, base_model: BaseModel) -> QuerySet[Engine]:
    return Engine.objects.filter(node=node, base_model=base_model)


def _is_needed(adapter_id: str) -> Exists:
    """Return whether a running deployment that is awake has, tries or awaits a version with the outer column's adapter.

    One that nobody has asked for as long as it was told to wait sleeps: that is a matter of the clock, stored nowhere.
    """
    adapter = OuterRef(adapter_id)
    behind = Q(live_version__adapter=adapter) | Q(next_version__adapter=adapter) | Q(canary_version__adapter=adapter)
    awake = Q(sleep_after_minutes=None) | Q(awake_until__gt=Now())
    lasts = Q(retires_on=None) | Q(retires_on__gte=today())
    return Exists(Deployment.unscoped.filter(behind, awake, lasts, is_running=True))


def _reset_placements(node: Node, base_model: BaseModel) -> None:
    Placement.unscoped.filter(node=node, adapter__base_model=base_model).update(
        status=Placement.Status.PENDING, error="", ready_at=None
    )
