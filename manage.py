#!/usr/bin/env python
"""Django's command line, with the embedded PostgreSQL server started first when no other is set."""

import os
import sys

COMMANDS_WITHOUT_DATABASE = frozenset({"help", "version", "makemessages", "compilemessages", "collectstatic"})


def main() -> None:
    """Run one management command."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
    if needs_database(sys.argv[1:]):
        from portal import embedded_postgres

        try:
            embedded_postgres.provide(os.environ)
        except embedded_postgres.EmbeddedPostgresError as error:
            sys.exit(str(error))
    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


def needs_database(arguments: list[str]) -> bool:
    """Tell whether a command line may use the database; asking for help never does."""
    if not arguments or arguments[0] in COMMANDS_WITHOUT_DATABASE:
        return False
    return not {"-h", "--help", "--version"} & set(arguments)


if __name__ == "__main__":
    main()
