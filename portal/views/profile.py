"""A person's own profile."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _

from portal import people
from portal.access import memberships_of, signed_in_view
from portal.actors import Actor
from portal.forms import ProfileForm


@signed_in_view
def profile(request: HttpRequest) -> HttpResponse:
    """Show a person's name and teams; change the name."""
    person = request.user
    form = ProfileForm(request.POST or None, initial={"name": person.name})  # type: ignore[union-attr]
    if request.method == "POST" and form.is_valid():
        people.rename(person=person, actor=Actor.of(request), **form.cleaned_data)  # type: ignore[arg-type]
        messages.success(request, _("Your profile is saved."))
        return redirect("portal:profile")
    context = {"form": form, "memberships": memberships_of(person)}  # type: ignore[arg-type]
    return render(request, "portal/profile.html", context, status=400 if form.errors else 200)
