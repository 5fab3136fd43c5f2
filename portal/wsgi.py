"""The WSGI entry for gunicorn."""

import os

from django.core.wsgi import get_wsgi_application
from django.db import connection

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
application = get_wsgi_application()

from portal.rls import refuse_privileged_role  # noqa: E402 — models need the line above
from portal.warm import load_pages  # noqa: E402

refuse_privileged_role()
load_pages()
connection.close()
