"""All addresses: pages under /t/<team>/, the console of platform admins under /platform/, the resource API under /api/,
the OpenAI-compatible surface under /v1/."""

from django.urls import URLPattern, URLResolver, include, path

from portal.oidc import views as oidc
from portal.views import audit, docs, health, joining, metrics, pages, people, profile, secrets, tokens, usage
from portal.views.platform import notices
from portal.views.platform import people as platform_people

_portal: list[URLPattern | URLResolver] = [
    path("", pages.home, name="home"),
    path("healthz", health.alive, name="healthz"),
    path("readyz", health.ready, name="readyz"),
    path("metrics", metrics.metrics, name="metrics"),
    path("account/", profile.profile, name="profile"),
    path("account/second-factor/", joining.second_factor_needed, name="second_factor_needed"),
    path("account/invitations/<uuid:pk>/", joining.accept, name="accept_invitation"),
    path("account/oidc/leaving/", oidc.leaving, name="leaving"),
    path("invitations/<str:token>/", joining.invitation, name="invitation"),
    path("style-guide/", pages.style_guide, name="style_guide"),
    path("t/<slug:team>/", pages.dashboard, name="dashboard"),
    path("t/<slug:team>/active-runs/", pages.active_runs, name="active_runs"),
    path("t/<slug:team>/audit/", audit.index, name="audit"),
    path("t/<slug:team>/audit.csv", audit.export, name="audit_export"),
    path("impersonation/end/", platform_people.end_impersonation, name="end_impersonation"),
    path("announcements/<uuid:pk>/dismiss/", notices.dismiss, name="dismiss_announcement"),
    path("t/<slug:team>/secrets/", secrets.index, name="secrets"),
    path("t/<slug:team>/secrets/<uuid:pk>/delete/", secrets.delete, name="delete_secret"),
    path("t/<slug:team>/members/", people.members, name="members"),
    path("t/<slug:team>/members/invite/", people.invite, name="invite"),
    path("t/<slug:team>/members/leave/", people.leave, name="leave_team"),
    path("t/<slug:team>/members/second-factor/", people.demand_second_factor, name="demand_second_factor"),
    path("t/<slug:team>/members/<uuid:pk>/role/", people.change_role, name="change_role"),
    path("t/<slug:team>/members/<uuid:pk>/remove/", people.remove, name="remove_member"),
    path("t/<slug:team>/invitations/<uuid:pk>/resend/", people.resend, name="resend_invitation"),
    path("t/<slug:team>/invitations/<uuid:pk>/revoke/", people.revoke, name="revoke_invitation"),
    path("t/<slug:team>/tokens/", tokens.index, name="tokens"),
    path("t/<slug:team>/tokens/<uuid:pk>/revoke/", tokens.revoke, name="revoke_token"),
    path("t/<slug:team>/tokens/<uuid:pk>/rotate/", tokens.rotate, name="rotate_token"),
    path("t/<slug:team>/usage/", usage.index, name="usage"),
    path("t/<slug:team>/usage.csv", usage.export, name="usage_export"),
    path("t/<slug:team>/service-accounts/", tokens.service_accounts, name="service_accounts"),
    path("t/<slug:team>/service-accounts/<uuid:pk>/switch/", tokens.switch, name="switch_service_account"),
    path("api/schema/", docs.schema, name="schema"),
    path("api/docs/", docs.pages, name="api_docs"),
]

urlpatterns: list[URLPattern | URLResolver] = [
    # First, since programs ask often: what stands before an address is tried for each request.
    path("v1/", include("deployments.openai_api.urls")),
    path("", include((_portal, "portal"))),
    path("", include("portal.accounts.urls")),
    path("platform/", include("portal.platform_urls")),
    path("", include("datasets_app.urls")),
    path("", include("experiments.urls")),
    path("", include("deployments.urls")),
    path("api/", include("datasets_app.api_urls")),
    path("api/", include("experiments.api_urls")),
    path("api/", include("deployments.api_urls")),
]

handler400 = "portal.views.errors.bad_request"
handler403 = "portal.views.errors.forbidden"
handler404 = "portal.views.errors.not_found"
handler500 = "portal.views.errors.server_error"
