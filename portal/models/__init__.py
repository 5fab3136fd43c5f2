"""Tables of the portal itself: people, teams, tokens, secrets, the audit trail, and what the platform shares."""

from portal.models.audit import AuditEvent
from portal.models.console import Announcement, Impersonation, PlatformState
from portal.models.invitations import Invitation
from portal.models.people import User
from portal.models.platform import BaseModel, Node
from portal.models.quotas import PlatformLimit, Quota, QuotaAlert, QuotaReservation, QuotaWindow, TeamLimit
from portal.models.secrets import TeamSecret
from portal.models.teams import Membership, Role, Team
from portal.models.tokens import ApiToken, Scope, ServiceAccount
from portal.models.usage import UsageDay

__all__ = [
    "Announcement",
    "ApiToken",
    "AuditEvent",
    "BaseModel",
    "Impersonation",
    "Invitation",
    "Membership",
    "Node",
    "PlatformLimit",
    "PlatformState",
    "Quota",
    "QuotaAlert",
    "QuotaReservation",
    "QuotaWindow",
    "Role",
    "Scope",
    "ServiceAccount",
    "Team",
    "TeamLimit",
    "TeamSecret",
    "UsageDay",
    "User",
]
