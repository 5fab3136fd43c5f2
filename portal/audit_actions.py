"""Every action that the audit trail knows, with the words by which people read it."""

from __future__ import annotations

from collections.abc import Mapping

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

ACTIONS: Mapping[str, str | Promise] = {
    # signing in and out, and being refused
    "sign_in.succeeded": _("Signed in"),
    "sign_in.refused": _("Sign-in refused"),
    "sign_out.done": _("Signed out"),
    "access.denied": _("Refused: not allowed to do this"),
    "access.stranger": _("Refused: not a member of the team"),
    "access.console": _("Refused: not a platform admin"),
    "token.refused": _("Refused: the API token is revoked or expired"),
    # teams and people
    "team.created": _("Team created"),
    "team.renamed": _("Team renamed"),
    "team.weight_changed": _("Team's share of the GPUs changed"),
    "team.archived": _("Team archived"),
    "team.restored": _("Team restored"),
    "team.deleted": _("Team deleted"),
    "member.added": _("Member added"),
    "member.removed": _("Member removed"),
    "member.role_changed": _("Member's role changed"),
    "invitation.created": _("Person invited"),
    "invitation.resent": _("Invitation sent again"),
    "invitation.revoked": _("Invitation withdrawn"),
    "invitation.accepted": _("Invitation accepted"),
    "team.mfa_required_changed": _("Team's demand for a second factor changed"),
    "member.kept_last_admin": _("Last admin kept although no group grants the role"),
    "person.signed_up": _("Account created"),
    "person.renamed": _("Person renamed"),
    "person.email_changed": _("E-mail address changed"),
    "person.password_changed": _("Password changed"),
    "person.second_factor_added": _("Second factor added"),
    "person.second_factor_removed": _("Second factor removed"),
    "person.provider_connected": _("Sign-in provider connected"),
    "person.provider_disconnected": _("Sign-in provider disconnected"),
    "person.sessions_ended": _("Signed out everywhere"),
    "person.made_platform_admin": _("Made a platform admin"),
    "person.unmade_platform_admin": _("No longer a platform admin"),
    "person.deactivated": _("Person deactivated"),
    "person.reactivated": _("Person reactivated"),
    # credentials
    "token.created": _("API token created"),
    "token.rotated": _("API token replaced"),
    "token.revoked": _("API token revoked"),
    "service_account.created": _("Service account created"),
    "service_account.activated": _("Service account switched on"),
    "service_account.deactivated": _("Service account switched off"),
    "secret.stored": _("Secret stored"),
    "secret.replaced": _("Secret replaced"),
    "secret.deleted": _("Secret deleted"),
    # data
    "dataset.upload_started": _("Upload in parts started"),
    "dataset.upload_finished": _("Upload in parts finished"),
    "dataset.upload_discarded": _("Upload in parts discarded"),
    "dataset.uploaded": _("Dataset uploaded"),
    "dataset.import_started": _("Dataset import started"),
    "dataset.rows_changed": _("Dataset rows changed, not yet saved"),
    "dataset.row_changes_discarded": _("Unsaved changes of dataset rows discarded"),
    "dataset.version_derived": _("Dataset version made from another one"),
    "dataset.version_ready": _("Dataset version ready"),
    "dataset.version_failed": _("Dataset import failed"),
    "dataset.version_discarded": _("Dataset version deleted"),
    "dataset.deleted": _("Dataset deleted"),
    "dataset.rows_read": _("Dataset rows read"),
    "dataset.downloaded": _("Dataset downloaded"),
    "doctor.started": _("Examination of a dataset version started"),
    "doctor.ready": _("Dataset version examined"),
    "doctor.failed": _("Examination of a dataset version failed"),
    "doctor.read": _("Doctor's report read"),
    "doctor.fixed": _("Doctor's fixes made a new dataset version"),
    "doctor.cancelled": _("Examination of a dataset version cancelled"),
    # runs
    "experiment.created": _("Experiment created"),
    "run.submitted": _("Run submitted"),
    "run.cancel_requested": _("Run asked to stop"),
    "run.cancelled": _("Run cancelled"),
    "run.priority_changed": _("Run's priority changed"),
    "run.failed": _("Run failed"),
    "run.requeued": _("Run back in the queue"),
    "run.succeeded": _("Run succeeded"),
    "run.answers_read": _("A run's held-out rows and answers read"),
    "run.predictions_downloaded": _("A run's predictions downloaded"),
    "adapter.downloaded": _("Adapter downloaded"),
    # deployments
    "deployment.created": _("Deployment created"),
    "deployment.version_added": _("Deployment version added"),
    "deployment.promotion_started": _("Deployment version waits to go live"),
    "deployment.promoted": _("Deployment version went live"),
    "deployment.started": _("Deployment started"),
    "deployment.stopped": _("Deployment stopped"),
    "deployment.deleted": _("Deployment deleted"),
    # limits
    "limit.default_changed": _("Limit of all teams changed"),
    "limit.changed": _("Team's limit changed"),
    "limit.cleared": _("Team's own limit taken away"),
    "limit.reached": _("Team reached a limit"),
    # the platform
    "base_model.registered": _("Base model registered"),
    "base_model.allowed": _("Base model allowed"),
    "base_model.forbidden": _("Base model forbidden"),
    "node.drained": _("Node takes no new work"),
    "node.reopened": _("Node takes work again"),
    "node.slots_changed": _("Node's slots changed"),
    "node.removed": _("Node removed"),
    "maintenance.started": _("Maintenance started"),
    "maintenance.ended": _("Maintenance ended"),
    "announcement.published": _("Announcement published"),
    "announcement.withdrawn": _("Announcement withdrawn"),
    "impersonation.started": _("Impersonation started"),
    "impersonation.ended": _("Impersonation ended"),
    "audit.exported": _("Audit trail exported"),
}


def action_label(action: str) -> str | Promise:
    """Return the words for an action; one that is older or newer than this list stands for itself."""
    return ACTIONS.get(action, action)
