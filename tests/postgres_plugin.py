"""Pytest plugin that starts the embedded PostgreSQL server before Django's settings are read.

Loaded with `-p tests.postgres_plugin`. The work is done on import, because pytest-django reads the
settings in the first hook that pytest calls. Set DATABASE_URL to test against another server.
"""

import os

from portal import embedded_postgres

embedded_postgres.provide(os.environ)
# Nobody misses a test's last commits after a crash of the server; waiting for the disk at each of them costs minutes.
os.environ.setdefault("PGOPTIONS", "-c synchronous_commit=off")
