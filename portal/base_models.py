"""The registry of base models and the admins' allow-list."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import transaction

from portal import audit
from portal.actors import Actor
from portal.models import BaseModel

EMBEDDED_SLUG = "smollm2-135m-instruct"


@dataclass(frozen=True)
class ModelCard:
    """What is known of a base model whose folder was checked: one line of the registry."""

    slug: str
    name: str
    source: str
    location: str
    revision: str
    parameters: int
    context_tokens: int
    size_bytes: int
    licence: str = ""


@transaction.atomic
def register(*, card: ModelCard, actor: Actor, allow: bool) -> BaseModel:
    """Enter a checked base model, or note its new revision; allowing it is a decision of its own."""
    facts = {name: value for name, value in vars(card).items() if name != "slug"}
    model, is_new = BaseModel.objects.get_or_create(slug=card.slug, defaults={**facts, "is_allowed": allow})
    if not is_new:
        changed = [name for name, value in facts.items() if getattr(model, name) != value]
        if not changed:
            return model
        for name in changed:
            setattr(model, name, facts[name])
        model.save(update_fields=changed)
    audit.record(None, actor, "base_model.registered", model, revision=card.revision, allowed=model.is_allowed)
    return model


@transaction.atomic
def set_allowed(*, model: BaseModel, allowed: bool, actor: Actor) -> None:
    """Put a base model on the allow-list or take it off; running deployments keep what they have."""
    if BaseModel.objects.filter(pk=model.pk).exclude(is_allowed=allowed).update(is_allowed=allowed):
        audit.record(None, actor, "base_model.allowed" if allowed else "base_model.forbidden", model)
