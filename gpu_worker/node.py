"""The agent of a node: says that the node is alive, keeps its engines running and the wanted adapters loaded.

It never trusts a message: every half second it compares what the database wants with what it has and closes the gap.
Engines are its children, so what it remembers of them is the truth; they go on serving while the database is away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from django.conf import settings
from django.db import InterfaceError, OperationalError
from django.utils.module_loading import import_string
from django.utils.translation import gettext as _

from deployments import engine_client, lifecycle
from deployments.engine_client import AdapterRefused
from deployments.lifecycle import PlacementState
from experiments.problem_file import PROBLEM_FILE
from gpu_worker import private_network
from gpu_worker.base_model_folder import sha256_of
from gpu_worker.database_patience import Patience
from gpu_worker.engine_keeper import DRAIN_LIMIT_S, Due, EngineKeeper
from gpu_worker.engine_kinds import EngineProgram, choose_program
from gpu_worker.machine import has_gpu, this_machine
from portal.errors import PortalError
from portal.models import Node

logger = logging.getLogger(__name__)

TICK_S = 0.5
BEAT_EVERY_S = 3.0
MAINTAIN_EVERY_S = 10.0
# Work of the portal that any live node does besides; what it raises is not the node's end.
CHORES = ("experiments.lifecycle.sweep", "experiments.tasks.dispatch")


class NodeAgent:
    """The loop of one node."""

    def __init__(self, name: str, *, program: EngineProgram | None = None, chores: Sequence[str] = CHORES) -> None:
        """`program`: what is started as an engine; None: what this machine and its settings choose."""
        self._name = name
        self._program = program or engine_program()
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
            slots=max(1, machine.gpus) if settings.NODE_SLOTS is None else settings.NODE_SLOTS,
            device=machine.device,
            memory_bytes=machine.memory_bytes,
            gpus=machine.gpus,
            joins_slots=not settings.TRAINER_WALL or private_network.is_offered(),
        )
        logger.info("node %s registered: %s", node.name, machine.device)
        return node

    def _beat(self, node: Node) -> None:
        if self._beat_due:
            if not lifecycle.beat(node):
                self._node = None  # removed as dead while it was only slow: the next round registers it again
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
                self._keepers[slug] = EngineKeeper(node, model, self._program)
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
                if keeper.kind == "vllm":
                    require_free_answers(state)
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


def engine_program() -> EngineProgram:
    """Return the engine that the settings and this machine choose."""
    return choose_program(
        settings.ENGINE, has_gpu=has_gpu(), vllm_command=settings.VLLM_COMMAND, weights=settings.ENGINE_WEIGHTS
    )


def require_free_answers(state: PlacementState) -> None:
    """Refuse an adapter whose answers our own engine binds to labels or numbers: vLLM would let it say anything.

    Raises: AdapterRefused.
    """
    if (state.folder / PROBLEM_FILE).exists():
        raise AdapterRefused(
            _(
                "This adapter answers with fixed labels or numbers, which vLLM does not enforce by itself. Set "
                "TUNEPORT_ENGINE=tuneport on this node to serve it."
            )
        )


def require_intact(state: PlacementState) -> None:
    """Refuse an adapter whose weights are not the ones that its run left behind. Raises: AdapterRefused."""
    try:
        digest = sha256_of(state.folder / "adapter_model.safetensors")
    except OSError:
        raise AdapterRefused(_("The adapter's files are missing on this node.")) from None
    if digest != state.sha256:
        raise AdapterRefused(_("The adapter's weights are not the ones that its run left: the file has changed."))
