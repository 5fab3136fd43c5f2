"""The addresses of django-allauth that the portal offers, each with its policy.

They are listed one by one instead of included: a route that allauth adds in a new version does not exist here until
somebody writes down who may call it.
"""

from allauth.account import views as account
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from allauth.socialaccount import views as socialaccount
from allauth.usersessions import views as usersessions
from django.urls import URLPattern, URLResolver, path, re_path

from portal.access import public_view, signed_in_view
from portal.oidc import views as oidc

urlpatterns: list[URLPattern | URLResolver] = [
    path("login/", public_view(account.login), name="account_login"),
    path("login/second-step/", public_view(mfa.authenticate), name="mfa_authenticate"),
    path("login/passkey/", public_view(webauthn.login_webauthn), name="mfa_login_webauthn"),
    path("logout/", public_view(account.logout), name="account_logout"),
    path("account/inactive/", public_view(account.account_inactive), name="account_inactive"),
    path("account/sign-up/", public_view(account.signup), name="account_signup"),
    path("account/confirm-again/", signed_in_view(account.reauthenticate), name="account_reauthenticate"),
    path("account/email/", signed_in_view(account.email), name="account_email"),
    path("account/email/sent/", public_view(account.email_verification_sent), name="account_email_verification_sent"),
    re_path(
        r"^account/email/confirm/(?P<key>[-:\w]+)/$", public_view(account.confirm_email), name="account_confirm_email"
    ),
    path("account/password/", signed_in_view(account.password_change), name="account_change_password"),
    path("account/password/set/", signed_in_view(account.password_set), name="account_set_password"),
    path("account/password/reset/", public_view(account.password_reset), name="account_reset_password"),
    path("account/password/reset/sent/", public_view(account.password_reset_done), name="account_reset_password_done"),
    re_path(
        r"^account/password/reset/(?P<uidb36>[0-9A-Za-z]+)-(?P<key>[-0-9A-Za-z]+)/$",
        public_view(account.password_reset_from_key),
        name="account_reset_password_from_key",
    ),
    path(
        "account/password/reset/done/",
        public_view(account.password_reset_from_key_done),
        name="account_reset_password_from_key_done",
    ),
    path("account/two-factor/", signed_in_view(mfa.index), name="mfa_index"),
    path("account/two-factor/confirm-again/", signed_in_view(mfa.reauthenticate), name="mfa_reauthenticate"),
    path("account/two-factor/app/", signed_in_view(totp.activate_totp), name="mfa_activate_totp"),
    path("account/two-factor/app/remove/", signed_in_view(totp.deactivate_totp), name="mfa_deactivate_totp"),
    path(
        "account/two-factor/codes/", signed_in_view(recovery_codes.view_recovery_codes), name="mfa_view_recovery_codes"
    ),
    path(
        "account/two-factor/codes/new/",
        signed_in_view(recovery_codes.generate_recovery_codes),
        name="mfa_generate_recovery_codes",
    ),
    path(
        "account/two-factor/codes/download/",
        signed_in_view(recovery_codes.download_recovery_codes),
        name="mfa_download_recovery_codes",
    ),
    path("account/two-factor/keys/", signed_in_view(webauthn.list_webauthn), name="mfa_list_webauthn"),
    path("account/two-factor/keys/add/", signed_in_view(webauthn.add_webauthn), name="mfa_add_webauthn"),
    path(
        "account/two-factor/keys/confirm-again/",
        signed_in_view(webauthn.reauthenticate_webauthn),
        name="mfa_reauthenticate_webauthn",
    ),
    path("account/two-factor/keys/<int:pk>/", signed_in_view(webauthn.edit_webauthn), name="mfa_edit_webauthn"),
    path(
        "account/two-factor/keys/<int:pk>/remove/",
        signed_in_view(webauthn.remove_webauthn),
        name="mfa_remove_webauthn",
    ),
    path("account/connections/", signed_in_view(socialaccount.connections), name="socialaccount_connections"),
    path("account/oidc/cancelled/", public_view(socialaccount.login_cancelled), name="socialaccount_login_cancelled"),
    path("account/oidc/failed/", public_view(socialaccount.login_error), name="socialaccount_login_error"),
    path("account/oidc/<slug:provider_id>/login/", oidc.login, name="openid_connect_login"),
    path("account/oidc/<slug:provider_id>/login/callback/", oidc.callback, name="openid_connect_callback"),
    path("account/sessions/", signed_in_view(usersessions.list_usersessions), name="usersessions_list"),
]
