"""A PostgreSQL server of the portal's own, for machines that have none.

`ensure(root)` starts it when needed and returns a DATABASE_URL.  Every process that uses it holds a
shared lock for as long as it lives; a detached keeper, the parent of the server, restarts a server
that died and stops it some seconds after the last user has gone.
"""

from portal.embedded_postgres.cluster import EmbeddedPostgresError
from portal.embedded_postgres.starter import ensure, is_kept, provide, release, stop

__all__ = ["EmbeddedPostgresError", "ensure", "is_kept", "provide", "release", "stop"]
