"""Addresses of the console of platform admins; the rooms above add theirs, below /platform/ too, in their own urls."""

from django.urls import URLPattern, path

from portal.views.platform import audit as trail
from portal.views.platform import limits, machines, notices, overview, people, teams

app_name = "platform"
urlpatterns: list[URLPattern] = [
    path("", overview.overview, name="overview"),
    path("teams/", teams.index, name="teams"),
    path("new-team/", teams.new, name="teams_new"),
    path("teams/<slug:slug>/", teams.detail, name="teams_detail"),
    path("teams/<slug:slug>/limits/", limits.team, name="team_limits"),
    path("teams/<slug:slug>/archive/", teams.archive, name="teams_archive"),
    path("teams/<slug:slug>/restore/", teams.restore, name="teams_restore"),
    path("teams/<slug:slug>/delete/", teams.delete, name="teams_delete"),
    path("limits/", limits.defaults, name="limits"),
    path("usage/", limits.usage_of_all, name="usage"),
    path("usage.csv", limits.usage_export, name="usage_export"),
    path("people/", people.index, name="people"),
    path("people/<uuid:pk>/", people.detail, name="people_detail"),
    path("people/<uuid:pk>/<slug:change>/", people.change, name="people_change"),
    path("nodes/", machines.nodes, name="nodes"),
    path("nodes/<slug:name>/drain/", machines.drain, name="nodes_drain"),
    path("nodes/<slug:name>/slots/", machines.slots, name="nodes_slots"),
    path("nodes/<slug:name>/remove/", machines.remove, name="nodes_remove"),
    path("base-models/", machines.models, name="models"),
    path("base-models/<slug:slug>/allow/", machines.allow_model, name="models_allow"),
    path("maintenance/", notices.maintenance, name="maintenance"),
    path("announcements/", notices.announcements, name="announcements"),
    path("announcements/<uuid:pk>/withdraw/", notices.withdraw, name="announcements_withdraw"),
    path("audit/", trail.index, name="audit"),
    path("audit.csv", trail.export, name="audit_export"),
]
