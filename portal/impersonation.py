"""A platform admin sees the portal as one person does: for a reason, for half an hour, and in the open.

While it lasts `request.user` is the person and `request.impersonator` the admin; every event in the audit trail
carries both. What could outlast the half hour is refused: credentials, exports, and the person's own account.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import audit
from portal.actors import Actor
from portal.errors import Forbidden, IllegalTransition
from portal.models import Impersonation, User
from portal.views.errors import error_response, is_api
from portal.words import checked_words

LONGEST = timedelta(minutes=30)
SESSION_KEY = "impersonation"
# A person's own account: password, second factor, sessions, addresses. Nobody else enters, not even to look.
_OWN_ACCOUNT = ("account_", "mfa_", "usersessions_", "socialaccount_", "openid_connect_")
_WAY_OUT = ("account_logout",)

Handler = Callable[[HttpRequest], HttpResponse]
View = Callable[..., HttpResponseBase]


@transaction.atomic
def start(*, person: User, reason: str, actor: Actor) -> Impersonation:
    """Begin to see the portal as `person`; the caller keeps the id in the admin's session.

    Raises: Forbidden unless the actor is a platform admin in person; IllegalTransition for another platform admin, a
    deactivated person or oneself; InvalidInput without a reason.
    """
    admin = actor.user
    if admin is None or not admin.is_platform_admin or actor.token is not None or actor.impersonator is not None:
        raise Forbidden(_("Only platform admins, signed in themselves, may do this."))
    reason = checked_words(reason, param="reason", longest=200)
    if person.is_platform_admin or person.pk == admin.pk:
        raise IllegalTransition(_("The portal cannot be seen as a platform admin."), code="is_platform_admin")
    if not person.is_active:
        raise IllegalTransition(_("This person is deactivated."), code="is_deactivated")
    now = timezone.now()
    begun = Impersonation.objects.create(
        admin=admin, person=person, reason=reason, started_at=now, expires_at=now + LONGEST
    )
    audit.record(
        None, actor, "impersonation.started", person, reason=reason, minutes=int(LONGEST.total_seconds() // 60)
    )
    return begun


@transaction.atomic
def end(*, impersonation: Impersonation, actor: Actor, why: str = "ended") -> None:
    """End it; a second call changes nothing."""
    now = timezone.now()
    if Impersonation.objects.filter(pk=impersonation.pk, ended_at=None).update(ended_at=now):
        audit.record(None, actor, "impersonation.ended", impersonation.person, why=why)


class see_through:  # noqa: N801 — a middleware like its siblings, which are functions
    """Let the person stand in for the admin while an impersonation lasts; end it when its time is over."""

    def __init__(self, get_response: Handler) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.impersonator = None  # type: ignore[attr-defined]
        # Programs show tokens; their requests have no person to stand in for.
        if not is_api(request) and SESSION_KEY in request.session and request.user.is_authenticated:
            _stand_in(request)
        return self.get_response(request)

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        match = request.resolver_match
        if request.impersonator is None or match is None or match.url_name is None:  # type: ignore[attr-defined]
            return None
        if not match.url_name.startswith(_OWN_ACCOUNT) or match.url_name in _WAY_OUT:
            return None
        try:
            Actor.of(request).require_self()
        except Forbidden as refusal:  # raised here, it would pass by the handler of pages' errors
            return error_response(request, status=refusal.status, error=refusal)
        return None


def _stand_in(request: HttpRequest) -> None:
    rows = Impersonation.objects.select_related("admin", "person")
    found = rows.filter(pk=request.session[SESSION_KEY], admin=request.user, ended_at=None).first()  # type: ignore[misc]
    if found is None:
        del request.session[SESSION_KEY]
    elif found.expires_at <= timezone.now():
        del request.session[SESSION_KEY]
        end(impersonation=found, actor=Actor.of(request), why="time is over")
    elif not found.admin.is_platform_admin or found.person.is_platform_admin or not found.person.is_active:
        del request.session[SESSION_KEY]
        end(impersonation=found, actor=Actor.of(request), why="no longer allowed")
    else:
        request.user = found.person
        request.impersonator, request.impersonation = found.admin, found  # type: ignore[attr-defined]


def refuse_while_impersonating(view: View) -> View:
    """Refuse what would outlast an impersonation. Put it below the decorator that declares the policy."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        refuse_if_impersonated(request)
        return view(request, *args, **kwargs)

    return guarded


def refuse_if_impersonated(request: HttpRequest) -> None:
    """Raise Forbidden if the person is only stood in for; for views of which a part is refused."""
    Actor.of(request).require_self()


@receiver(user_logged_out, dispatch_uid="portal.impersonation")
def _end_with_the_session(sender: object, request: HttpRequest | None = None, **_more: object) -> None:
    impersonation = getattr(request, "impersonation", None)
    if request is not None and impersonation is not None:
        end(impersonation=impersonation, actor=Actor.of(request), why="signed out")
