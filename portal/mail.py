"""Plain-text e-mail from templates: `templates/mail/<name>.subject.txt` and `<name>.txt`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from smtplib import SMTPException

from django.conf import settings
from django.core.mail import send_mail
from django.template.loader import render_to_string

logger = logging.getLogger(__name__)
_SILENT = ("console.EmailBackend", "dummy.EmailBackend")


def is_configured() -> bool:
    """Whether mail leaves this installation; otherwise links are handed over by hand."""
    return not settings.EMAIL_BACKEND.endswith(_SILENT)


def send(*, to: str, template: str, context: Mapping[str, object]) -> bool:
    """Send one mail and return whether the mail server took it; a failure is logged, never raised."""
    subject = " ".join(render_to_string(f"mail/{template}.subject.txt", dict(context)).split())
    body = render_to_string(f"mail/{template}.txt", dict(context)).strip() + "\n"
    sent = 0
    with failures_logged(template):
        sent = send_mail(subject, body, settings.DEFAULT_FROM_EMAIL, [to])
    return bool(sent)


@contextmanager
def failures_logged(template: str) -> Iterator[None]:
    """Log what the mail server refused, without the address."""
    try:
        yield
    except (SMTPException, OSError) as error:
        logger.error("mail %s was not sent: %s", template, type(error).__name__)
