"""Exporting models: the merged model or a GGUF file to be downloaded, or a push to a hub."""

from __future__ import annotations

import re

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from deployments import exports_lifecycle
from deployments.models import ModelExport
from experiments.models import Adapter
from portal import audit, quotas, usage
from portal.actors import Actor
from portal.errors import IllegalTransition, InvalidInput
from portal.models import Quota, TeamSecret

Kind, Weights = ModelExport.Kind, ModelExport.Weights
MOST_OPEN = 4
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\Z")
_BYTES_PER_WEIGHT = {Weights.F16: 2.0, Weights.Q8: 1.07, Weights.F32: 4.0}


@transaction.atomic
def start_file(*, adapter: Adapter, actor: Actor, kind: str, weights: str = "") -> ModelExport:
    """Queue the making of a file: kind merged, or gguf with `weights`.

    Raises: InvalidInput, QuotaExceeded if the team has no room for it, IllegalTransition if too many are on their way.
    """
    actor.require_self()
    if kind not in (Kind.MERGED, Kind.GGUF) or (kind == Kind.GGUF) != (weights in Weights.values):
        raise InvalidInput(_("Choose one of the formats."), param="kind")
    estimate = _size_of(adapter, kind, weights)
    team = adapter.team
    quotas.require_room(team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(team), adding=estimate)
    return _start(ModelExport(adapter=adapter, kind=kind, weights=weights, size_bytes=estimate), actor)


@transaction.atomic
def start_push(
    *,
    adapter: Adapter,
    actor: Actor,
    repository: str,
    secret_name: str,
    is_private: bool = True,
    whole_model: bool = False,
) -> ModelExport:
    """Queue a push to the hub, with the credential that the team keeps under `secret_name`; private unless said.

    Raises: InvalidInput naming the field, QuotaExceeded, IllegalTransition if too many are on their way.
    """
    actor.require_self()
    team = adapter.team
    if not _REPOSITORY.match(repository) or ".." in repository or "--" in repository:
        raise InvalidInput(_("Write the repository as owner/name, as on the hub."), param="repository")
    if not team.teamsecrets.filter(name=secret_name, kind=TeamSecret.Kind.HUB_TOKEN).exists():
        raise InvalidInput(_("The team has no hub credential of this name."), param="secret_name")
    room = _size_of(adapter, Kind.MERGED, "") if whole_model else 0  # it is made here before it goes
    if room:
        quotas.require_room(team, Quota.STORAGE_BYTES, lambda: usage.storage_bytes(team), adding=room)
    export = ModelExport(
        adapter=adapter, kind=Kind.HUB, repository=repository, secret_name=secret_name, is_private=is_private,
        whole_model=whole_model, size_bytes=room,
    )  # fmt: skip
    return _start(export, actor)


def _start(export: ModelExport, actor: Actor) -> ModelExport:
    team = export.adapter.team
    if team.modelexports.filter(status__in=ModelExport.OPEN).count() >= MOST_OPEN:
        raise IllegalTransition(
            _("%(most)d exports are on their way already. Wait for one of them.") % {"most": MOST_OPEN},
            code="too_many_exports",
        )
    export.team, export.created_by, export.heartbeat_at = team, actor.user, timezone.now()
    export.save()
    audit.record(
        team, actor, "export.started", export, kind=export.kind, weights=export.weights or None,
        repository=export.repository or None, is_private=export.is_private,
    )  # fmt: skip
    exports_lifecycle.EXPORTS.enqueue(export.pk)
    return export


@transaction.atomic
def delete_export(*, export: ModelExport, actor: Actor) -> None:
    """Forget an export and its file; one on its way stops. What is on a hub stays there."""
    audit.record(export.team, actor, "export.deleted", export, kind=export.kind)
    folder = export.folder
    export.delete()
    transaction.on_commit(lambda: exports_lifecycle.remove(folder))


def _size_of(adapter: Adapter, kind: str, weights: str) -> int:
    model = adapter.base_model
    if kind == Kind.GGUF and model.parameters:
        return round(model.parameters * _BYTES_PER_WEIGHT[Weights(weights)]) + 8_000_000  # tokens and their merges
    return int(model.size_bytes)
