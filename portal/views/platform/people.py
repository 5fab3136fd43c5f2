"""People: found, made platform admins, shut out, and seen through."""

from __future__ import annotations

from uuid import UUID

from django.core.paginator import Paginator
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from portal import impersonation, people, search
from portal.access import platform_admin_view, signed_in_view
from portal.actors import Actor
from portal.models import Membership, User
from portal.platform_forms import ReasonForm, applied
from portal.views.platform.actions import attempt

PER_PAGE = 50


@platform_admin_view
def index(request: HttpRequest) -> HttpResponse:
    """List people, by a word in their name or address if one is given."""
    query = search.typed(request)
    found = User.objects.filter(Q(name__icontains=query) | Q(email__icontains=query)) if query else User.objects.all()
    with_counts = found.annotate(team_count=Count("memberships")).order_by("email", "pk")
    page = Paginator(with_counts, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "platform/people.html", {"page": page, "query": query})


@platform_admin_view
def detail(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Show a person with their memberships; a reason that is sent here begins an impersonation."""
    person = get_object_or_404(User, pk=pk)
    form = ReasonForm(request.POST or None)
    begun = []
    if applied(
        form, lambda **values: begun.append(impersonation.start(**values)), person=person, actor=Actor.of(request)
    ):
        request.session[impersonation.SESSION_KEY] = str(begun[0].pk)
        return redirect("portal:home")
    memberships = Membership.unscoped.filter(user=person).select_related("team").order_by("team__name")
    context = {"person": person, "memberships": memberships, "form": form}
    return render(request, "platform/person.html", context, status=400 if form.errors else 200)


@platform_admin_view
@require_POST
def change(request: HttpRequest, pk: UUID, change: str) -> HttpResponse:
    """Make or unmake a platform admin, deactivate or reactivate."""
    person = get_object_or_404(User, pk=pk)
    if change == "make-admin":
        said = _("%(person)s is a platform admin now.") % {"person": person}
        attempt(request, said, people.set_platform_admin, person=person, is_admin=True)
    elif change == "unmake-admin":
        said = _("%(person)s is no platform admin any more.") % {"person": person}
        attempt(request, said, people.set_platform_admin, person=person, is_admin=False)
    elif change == "deactivate":
        said = _("%(person)s is shut out; their sessions have ended.") % {"person": person}
        attempt(request, said, people.deactivate, person=person)
    elif change == "reactivate":
        said = _("%(person)s may sign in again.") % {"person": person}
        attempt(request, said, people.reactivate, person=person)
    else:
        raise Http404
    return redirect("platform:people_detail", pk)


@signed_in_view
@require_POST
def end_impersonation(request: HttpRequest) -> HttpResponse:
    """Be oneself again."""
    current = getattr(request, "impersonation", None)
    if current is None:
        return redirect("portal:home")
    impersonation.end(impersonation=current, actor=Actor.of(request))
    request.session.pop(impersonation.SESSION_KEY, None)
    return redirect("platform:people_detail", current.person_id)
