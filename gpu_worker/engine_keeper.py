"""Keeps one engine running: starts it, waits for it without blocking, asks for its health, starts it again."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from django.conf import settings
from django.utils.translation import gettext as _

from deployments import engine_client, lifecycle
from deployments.engine_client import EngineTarget
from gpu_worker.compiled import cache_in
from gpu_worker.engine_kinds import EngineProgram
from gpu_worker.engine_process import EngineProcess, EngineSpec
from portal.models import BaseModel, Node

logger = logging.getLogger(__name__)

HEALTH_EVERY_S = 5.0
# Generation may keep an engine's threads busy for a while; six misses in a row are no longer that.
HEALTH_MISSES = 6
START_LIMIT_S = 300.0
VLLM_START_LIMIT_S = 1800.0  # it compiles kernels at its first start
DRAIN_LIMIT_S = 12.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
TRIES_BEFORE_FAILED = 3


class Due:
    """Tells when something is to be done again."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._next = 0.0

    def __bool__(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return True


class EngineKeeper:
    """Keeps the engine of one base model running, and remembers which adapters are loaded in it."""

    def __init__(self, node: Node, base_model: BaseModel, program: EngineProgram) -> None:
        data, name = Path(settings.DATA_DIR), f"engine-{node.name}-{base_model.slug}"
        self.loaded: set[str] = set()
        self.target: EngineTarget | None = None
        self.process: EngineProcess | None = None
        self.base_model = base_model
        self._node = node
        self._spec = EngineSpec(
            slug=base_model.slug,
            folder=base_model.folder,
            host=node.address,
            ready_file=data / "run" / f"{name}.json",
            log=data / "logs" / f"{name}.log",
            home=data / "run" / f"{name}-home",
            project=Path(settings.BASE_DIR),
            command=program.command,
            kind=program.kind,
            cache=cache_in(data),
        )
        self.kind = program.kind
        self._weights = program.weights
        self._start_at = 0.0
        self._failures = 0
        self._misses = 0
        self._ended_at = 0.0
        self._is_announced = False
        self._health_due = Due(HEALTH_EVERY_S)

    def step(self) -> None:
        """Do the next thing towards a healthy engine; never waits."""
        if self.process is None:
            if time.monotonic() >= self._start_at:
                self._start()
        elif (code := self.process.poll()) is not None:
            self._note_end(_("it ended with code %(code)d") % {"code": code})
        elif not self._is_announced:
            self._announce(self.process)
        elif self.target is None:
            self._look_for_readiness(self.process)
        elif self._health_due:
            self._check_health(self.process, self.target)

    def end(self) -> None:
        """Ask the engine to finish what it answers and end; see `has_ended`."""
        if self.process is not None:
            self.process.terminate()
            self._ended_at = time.monotonic()

    @property
    def has_ended(self) -> bool:
        """Whether the engine is gone after `end`; one that takes too long is killed here."""
        if self.process is not None and time.monotonic() - self._ended_at > DRAIN_LIMIT_S:
            self.process.kill()
        return self.process is None or self.process.poll() is not None

    def bury(self, limit_s: float) -> None:
        """Wait for the end that was asked for, and force it when the time is over."""
        if self.process is not None:
            self.process.wait(limit_s)
            self.process = self.target = None

    def _start(self) -> None:
        self.loaded.clear()
        self._misses = 0
        self._is_announced = False  # a step of its own: if the database is away now, it is done later
        self.process = EngineProcess(self._spec, os.environ)
        logger.info("engine of %s started, process %d", self._spec.slug, self.process.pid)
        self._announce(self.process)

    def _announce(self, process: EngineProcess) -> None:
        lifecycle.engine_starts(
            node=self._node,
            base_model=self.base_model,
            access_key=process.access_key,
            scores_values=self.kind == "tuneport",
            weights=self._weights,
        )
        self._is_announced = True

    def _look_for_readiness(self, process: EngineProcess) -> None:
        url = process.url()
        if url is not None:
            lifecycle.engine_ready(node=self._node, base_model=self.base_model, url=url)
            self.target = EngineTarget(url, process.access_key)
            logger.info("engine of %s ready after %.1f s", self._spec.slug, time.monotonic() - process.started_at)
            return
        limit_s = VLLM_START_LIMIT_S if self.kind == "vllm" else START_LIMIT_S
        if time.monotonic() - process.started_at > limit_s:
            process.kill()
            self._note_end(_("it was not ready after %(limit)d seconds") % {"limit": limit_s})

    def _check_health(self, process: EngineProcess, target: EngineTarget) -> None:
        health = engine_client.health_of(target)
        if health is not None:
            self._misses = self._failures = 0
            lifecycle.engine_beats(node=self._node, base_model=self.base_model, self_check=health.self_check)
            return
        self._misses += 1
        if self._misses >= HEALTH_MISSES:
            process.kill()
            self._note_end(_("it did not answer its health checks"))

    def _note_end(self, reason: str) -> None:
        """Plan the next start; after some failures in a row say so, and go on trying."""
        self.process = self.target = None
        self._failures += 1
        pause_s = min(FIRST_PAUSE_S * 2 ** (self._failures - 1), LONGEST_PAUSE_S)
        self._start_at = time.monotonic() + pause_s
        logger.warning("engine of %s: %s; starting it again in %g s", self._spec.slug, reason, pause_s)
        if self._failures >= TRIES_BEFORE_FAILED:
            sentence = _("The engine of %(model)s does not run: %(reason)s. A platform admin finds more in its log.")
            lifecycle.engine_failed(
                node=self._node,
                base_model=self.base_model,
                sentence=sentence % {"model": self.base_model.name, "reason": reason},
            )
