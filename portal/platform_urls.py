"""Addresses of the console of platform admins; the rooms above add theirs, below /platform/ too, in their own urls."""

from django.urls import URLPattern, path

from portal.views.platform import overview

app_name = "platform"
urlpatterns: list[URLPattern] = [
    path("", overview.overview, name="overview"),
]
