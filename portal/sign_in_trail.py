"""Signing in, signing out and being refused at the door leave a trace, by whatever way people sign in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.dispatch import receiver
from django.http import HttpRequest

from portal import audit
from portal.actors import Actor
from portal.client_address import client_address
from portal.models import User


@receiver(user_logged_in, dispatch_uid="portal.sign_in_trail")
def note_sign_in(sender: object, user: User, request: HttpRequest | None = None, **_more: object) -> None:
    """Note that a person signed in."""
    audit.record(None, _at_the_door(user, request), "sign_in.succeeded", user)


@receiver(user_logged_out, dispatch_uid="portal.sign_in_trail")
def note_sign_out(sender: object, user: User | None, request: HttpRequest | None = None, **_more: object) -> None:
    """Note that a person signed out; a visitor who was not signed in leaves nothing."""
    if user is not None:
        audit.record(None, _at_the_door(user, request), "sign_out.done", user)


@receiver(user_login_failed, dispatch_uid="portal.sign_in_trail")
def note_refused_sign_in(
    sender: object, credentials: Mapping[str, Any], request: HttpRequest | None = None, **_more: object
) -> None:
    """Note a refused sign-in. What was typed is not kept: people type passwords into the wrong box."""
    typed = credentials.get("username") or credentials.get("email") or credentials.get("login") or ""
    person = User.objects.filter(email=str(typed).strip().lower()[:254]).first()
    actor = _at_the_door(person, request)
    audit.denied(actor, "sign_in.refused", route="sign-in", subject=person, known=person is not None)


def _at_the_door(person: User | None, request: HttpRequest | None) -> Actor:
    ip = client_address(request) if request is not None else None
    request_id = getattr(request, "request_id", "")
    impersonator = getattr(request, "impersonator", None)
    machine = "" if person else "unknown person"
    return Actor(user=person, ip=ip, request_id=request_id, machine=machine, impersonator=impersonator)
