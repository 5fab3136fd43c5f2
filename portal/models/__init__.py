"""Tables of the portal itself: people, teams, tokens, the audit trail, and the platform's nodes and base models."""

from portal.models.audit import AuditEvent
from portal.models.people import User
from portal.models.platform import BaseModel, Node
from portal.models.teams import Membership, Role, Team
from portal.models.tokens import ApiToken, Scope, ServiceAccount

__all__ = [
    "ApiToken",
    "AuditEvent",
    "BaseModel",
    "Membership",
    "Node",
    "Role",
    "Scope",
    "ServiceAccount",
    "Team",
    "User",
]
