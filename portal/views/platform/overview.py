"""The console's first page: how the platform stands."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from portal import audit_trail, reachable
from portal.access import platform_admin_view
from portal.models import AuditEvent, Node, Team, User
from portal.platform_facts import Fact, reported

_RECENT_EVENTS = 10


@platform_admin_view
def overview(request: HttpRequest) -> HttpResponse:
    """Show counts, nodes, and what was done last."""
    nodes = list(Node.objects.order_by("name"))
    context = {
        "facts": [*_own_facts(nodes), *reported()],
        "nodes": nodes,
        "outbound": reachable.allow_list(),
        "rows": audit_trail.shown(AuditEvent.objects.all()[:_RECENT_EVENTS], with_teams=False),
    }
    return render(request, "platform/overview.html", context)


def _own_facts(nodes: list[Node]) -> list[Fact]:
    live = sum(node.is_live for node in nodes)
    of_all = ngettext("of %(count)d known", "of %(count)d known", len(nodes)) % {"count": len(nodes)}
    return [
        Fact(_("Teams"), Team.objects.count(), "users-group", view="platform:teams"),
        Fact(_("People"), User.objects.filter(is_active=True).count(), "users", view="platform:people"),
        Fact(_("Live nodes"), live, "server", hint=of_all, view="platform:nodes"),
    ]
