"""The agent of a node: says that the node is alive, keeps its engines running and the wanted adapters loaded.

It never trusts a message: every half second it compares what the database wants with what it has and closes the gap.
Engines are its children, so what it remembers of them is the truth; they go on serving while the database is away.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from deployments import engine_client, lifecycle
from deployments.engine_client import AdapterRefused, EngineTarget
from deployments.lifecycle import PlacementState
from gpu_worker.database_patience import Patience
from gpu_worker.engine_process import COMMAND, EngineProcess, EngineSpec
from gpu_worker.machine import this_machine
from portal.errors import PortalError
from portal.models import BaseModel, Node

logger = logging.getLogger(__name__)

TICK_S = 0.5
BEAT_EVERY_S = 3.0
HEALTH_EVERY_S = 5.0
# Generation may keep an engine's threads busy for a while; six misses in a row are no longer that.
HEALTH_MISSES = 6
MAINTAIN_EVERY_S = 10.0
START_LIMIT_S = 300.0
DRAIN_LIMIT_S = 12.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
TRIES_BEFORE_FAILED = 3
# Work of the portal that any live node does besides; what it raises is not the node's end.
CHORES = ("experiments.lifecycle.sweep", "experiments.tasks.dispatch")


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

    def __init__(self, node: Node, base_model: BaseModel, command: Sequence[str]) -> None:
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
            command=command,
        )
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
        lifecycle.engine_starts(node=self._node, base_model=self.base_model, access_key=process.access_key)
        self._is_announced = True

    def _look_for_readiness(self, process: EngineProcess) -> None:
        url = process.url()
        if url is not None:
            lifecycle.engine_ready(node=self._node, base_model=self.base_model, url=url)
            self.target = EngineTarget(url, process.access_key)
            logger.info("engine of %s ready after %.1f s", self._spec.slug, time.monotonic() - process.started_at)
        elif time.monotonic() - process.started_at > START_LIMIT_S:
            process.kill()
            self._note_end(_("it was not ready after %(limit)d seconds") % {"limit": START_LIMIT_S})

    def _check_health(self, process: EngineProcess, target: EngineTarget) -> None:
        if engine_client.is_healthy(target):
            self._misses = self._failures = 0
            lifecycle.engine_beats(node=self._node, base_model=self.base_model)
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


class NodeAgent:
    """The loop of one node."""

    def __init__(self, name: str, *, command: Sequence[str] = COMMAND, chores: Sequence[str] = CHORES) -> None:
        self._name = name
        self._command = command
        self._chores = chores
        self._node: Node | None = None
        self._keepers: dict[str, EngineKeeper] = {}
        self._ending: list[EngineKeeper] = []
        self._patience = Patience()
        self._beat_due = Due(BEAT_EVERY_S)
        self._chores_due = Due(MAINTAIN_EVERY_S)

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set, then end the engines in order. Only the main thread may call it."""
        try:
            while not stop.is_set():
                with self._patience.bearing():
                    self._tick_safely()
                stop.wait(TICK_S)
        finally:
            self._end()

    def _tick_safely(self) -> None:
        try:
            self.tick()
        except (OperationalError, InterfaceError):
            raise
        except Exception:  # a node that dies of one bad row would take all teams' models with it
            logger.exception("a round of the node agent failed")

    def tick(self) -> None:
        """Close the gap between what is wanted and what is, once."""
        node = self._node = self._node or self._register()
        self._beat(node)
        self._keep_engines(node)
        self._keep_placements(node)
        lifecycle.finish_promotions()
        if self._chores_due:
            self._do_chores()

    def _register(self) -> Node:
        machine = this_machine()
        node = lifecycle.register_node(
            name=self._name,
            address=settings.NODE_ADDRESS,
            slots=settings.NODE_SLOTS,
            device=machine.device,
            memory_bytes=machine.memory_bytes,
        )
        logger.info("node %s registered: %s", node.name, machine.device)
        return node

    def _beat(self, node: Node) -> None:
        if self._beat_due:
            lifecycle.beat(node)
            lifecycle.place_missing()
            lifecycle.move_from_lost_nodes(node)

    # --- Engines ---------------------------------------------------------------------------------------------------

    def _keep_engines(self, node: Node) -> None:
        needed = {model.slug: model for model in lifecycle.base_models_needed(node) if model.folder.is_dir()}
        for slug in self._keepers.keys() - needed.keys():
            keeper = self._keepers.pop(slug)
            lifecycle.engine_gone(node=node, base_model=keeper.base_model)
            keeper.end()
            self._ending.append(keeper)
        for slug, model in needed.items():
            if slug not in self._keepers:
                self._keepers[slug] = EngineKeeper(node, model, self._command)
            self._keepers[slug].step()
        for keeper in list(self._ending):
            if keeper.has_ended:
                self._ending.remove(keeper)

    # --- Adapters --------------------------------------------------------------------------------------------------

    def _keep_placements(self, node: Node) -> None:
        states = lifecycle.placements_of(node)
        for state in states:
            self._beat(node)  # loading many adapters must not look like a lost node
            keeper = self._keepers.get(state.base_model)
            if state.is_wanted:
                self._load(keeper, state)
            elif lifecycle.forget_placement(state.id):
                self._unload(keeper, state.engine_name)
        placed = {state.engine_name for state in states}
        for keeper in self._keepers.values():
            for orphan in keeper.loaded - placed:
                self._unload(keeper, orphan)

    def _load(self, keeper: EngineKeeper | None, state: PlacementState) -> None:
        if keeper is None or keeper.target is None or state.status == "failed":
            return
        if state.engine_name not in keeper.loaded:
            try:
                require_intact(state)
                engine_client.load_adapter(keeper.target, name=state.engine_name, folder=state.folder)
            except AdapterRefused as refusal:
                lifecycle.placement_failed(state.id, str(refusal))
                logger.warning("placement %s: %s", state.id, refusal)
                return
            except PortalError as error:
                logger.warning("placement %s waits: %s", state.id, error.message)
                return
            keeper.loaded.add(state.engine_name)
        if state.status != "ready":
            lifecycle.placement_ready(state.id)
            logger.info("placement %s is ready", state.id)

    def _unload(self, keeper: EngineKeeper | None, engine_name: str) -> None:
        if keeper is None or keeper.target is None or engine_name not in keeper.loaded:
            return
        try:
            engine_client.unload_adapter(keeper.target, name=engine_name)
        except (AdapterRefused, PortalError) as error:
            logger.warning("%s cannot be unloaded yet: %s", engine_name, error)
            return
        keeper.loaded.discard(engine_name)
        logger.info("%s is unloaded", engine_name)

    # --- The rest --------------------------------------------------------------------------------------------------

    def _do_chores(self) -> None:
        for name in self._chores:
            try:
                chore: Callable[[], object] = import_string(name)
                chore()
            except (OperationalError, InterfaceError):
                raise
            except Exception:  # somebody else's mistake is no reason to stop serving
                logger.exception("%s failed", name)

    def _end(self) -> None:
        """Tell the portal first, so that nobody is sent here any more; then let the engines finish."""
        if self._node is not None:
            with self._patience.bearing():
                lifecycle.leave(self._node)
        keepers = [*self._keepers.values(), *self._ending]
        for keeper in keepers:
            keeper.end()
        deadline = time.monotonic() + DRAIN_LIMIT_S
        for keeper in keepers:
            keeper.bury(deadline - time.monotonic())
        logger.info("node %s left", self._name)


def require_intact(state: PlacementState) -> None:
    """Refuse an adapter whose weights are not the ones that its run left behind. Raises: AdapterRefused."""
    try:
        with (state.folder / "adapter_model.safetensors").open("rb") as weights:
            digest = hashlib.file_digest(weights, "sha256").hexdigest()
    except OSError:
        raise AdapterRefused(_("The adapter's files are missing on this node.")) from None
    if digest != state.sha256:
        raise AdapterRefused(_("The adapter's weights are not the ones that its run left: the file has changed."))
