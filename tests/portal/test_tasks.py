"""What the queue calls by the clock in this room."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from django.contrib.sessions.models import Session
from django.core.cache import cache
from django.utils import timezone

from portal import tasks


@pytest.mark.django_db
def test_old_counts_and_sessions_are_removed(alice, client_for):
    cache.set("young", 1, 3600)
    cache.set("old", 1, 0.001)
    client_for(alice)
    Session.objects.update(expire_date=timezone.now() - timedelta(days=1))
    time.sleep(1.1)
    assert tasks.prune() >= 1
    assert cache.get("young") == 1
    assert not Session.objects.exists()
