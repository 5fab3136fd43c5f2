"""The dataset doctor in the portal: reports as rows and tasks, their fixes, and how pages show them.

The examination itself is pure and lives in `datasets_app.doctor`; here is who starts it, where its report is kept and
what follows.
"""
