"""Five people chat with three adapters at once, on the project's own engine: one stops, and nobody else notices.

The engine is a process on the tests' two-layer random model, changed so that it never comes to an end by itself.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from django.test import Client
from safetensors.numpy import load_file, save_file

from deployments import services
from deployments.models import InferenceRecord
from portal.models import Role
from portal.rls import all_teams, team_scope
from tests import cast
from tests.deployments.conftest import wait_for
from tests.deployments.on_real_engine import announce, load_wanted
from tests.gpu_worker.engine.engine_process import EngineProcess, running_engine
from tests.gpu_worker.engine.reference import make_adapter

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]

MODELS = ("triage", "summary", "reply")
PEOPLE = ("Ada", "Ben", "Cleo", "Dan", "Eve")
CONTEXT = 60_000
LONGEST = 50_000
"""Tokens of an answer: for any machine far more than are written while a few pages are made."""
COMPARED = 80
"""Characters of an answer that are compared with the same answer made alone."""
CSRF = "c" * 32


@pytest.fixture(scope="module")
def endless_model(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a long context, and an output layer by which the end is never drawn.

    The first component of the residual stream is 1 for every token and nothing writes into it, so it stays above 0;
    it alone says how likely the end is: far less than anything else.
    """
    folder = tmp_path_factory.mktemp("endless") / "tiny"
    shutil.copytree(tiny_model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    embedding[:, 0] = 1
    for name, values in weights.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            values[0] = 0
    head = embedding.copy()
    head[:, 0] = 0
    head[config["eos_token_id"]] = 0
    head[config["eos_token_id"], 0] = -1000
    save_file({**weights, "lm_head.weight": head}, folder / "model.safetensors", {"format": "pt"})
    changed = {"tie_word_embeddings": False, "max_position_embeddings": CONTEXT}
    (folder / "config.json").write_text(json.dumps(config | changed))
    return folder


@pytest.fixture(scope="module")
def adapters(endless_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of projections that do not write into the residual stream."""
    folder = tmp_path_factory.mktemp("adapters")
    options = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "up_proj"]}
    return {name: make_adapter(endless_model, folder / name, seed=seed, **options) for seed, name in enumerate(MODELS)}


@pytest.fixture(scope="module")
def engine_process(endless_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    options = ("--skip-self-check", "--kv-cache-mb", "256", "--max-context", str(CONTEXT))
    with running_engine(endless_model, tmp_path_factory.mktemp("engine"), *options) as engine:
        yield engine


@pytest.fixture
def three_models(engine_process, adapters, team, actor, make_run, node, base_model) -> Iterator[None]:
    """Three deployments; the engine is left as it was found."""
    target = announce(engine_process, node, base_model)
    folders = {}
    for name in MODELS:
        run = make_run(team, name)
        with team_scope(team.pk):
            folders[services.deploy_run(team=team, actor=actor, run=run, name=name).adapter.engine_name] = adapters[
                name
            ]
    load_wanted(target, node, folders)
    yield
    engine_process.wait_until_idle()


@pytest.fixture
def person(live_server, team) -> Iterator[Callable[[str], httpx.Client]]:
    """Return a function that makes a member of the team and signs them in at the server."""
    with ExitStack() as leaving:

        def sign_in(name: str) -> httpx.Client:
            user = cast.person(name)
            with team_scope(team.pk):
                team.memberships.create(user=user, role=Role.VIEWER)
            browser = Client()
            browser.force_login(user)
            cookies = {key: morsel.value for key, morsel in browser.cookies.items()} | {"csrftoken": CSRF}
            return leaving.enter_context(
                httpx.Client(base_url=live_server.url, cookies=cookies, timeout=120, trust_env=False)
            )

        yield sign_in


@dataclass
class Chat:
    """One conversation: its stream is read by a thread of its own until its end, or until its person stops it."""

    browser: httpx.Client
    address: str
    model: str
    stop: threading.Event = field(default_factory=threading.Event)
    text: str = ""
    ended: str = ""
    """Why it is over; empty while it is open."""

    def read(self, most: int = LONGEST) -> None:
        # drawn, not greedy: a loop that repeats itself would be drafted, and over in no time
        body = {"model": f"deployment:{self.model}", "stream": True, "temperature": 1, "seed": 7, "max_tokens": most,
                "messages": [{"role": "user", "content": "The printer does not print."}]}  # fmt: skip
        ended = "broken"
        with self.browser.stream("POST", self.address, json=body, headers={"X-CSRFToken": CSRF}) as response:
            for line in response.iter_lines():
                if self.stop.is_set():
                    ended = "stopped"
                    break
                if line.startswith("data: {"):
                    ended = self._take(json.loads(line.removeprefix("data: "))) or ended
        self.ended = ended

    def _take(self, event: dict) -> str | None:
        for choice in event.get("choices", ()):
            self.text += choice["delta"].get("content") or ""
            if choice["finish_reason"]:
                return str(choice["finish_reason"])
        return "error" if "error" in event else None


def test_five_people_chat_with_three_adapters_and_one_of_them_stops(engine_process, three_models, person, team):
    address = f"/t/{team.slug}/playground/chat/"
    chats = [Chat(person(name), address, MODELS[place % 3]) for place, name in enumerate(PEOPLE)]
    threads = [threading.Thread(target=chat.read, daemon=True) for chat in chats]
    for thread in threads:
        thread.start()
    assert wait_for(lambda: all(len(chat.text) > COMPARED for chat in chats), limit_s=60), "every stream has begun"

    pages = [chat.browser.get(f"/t/{team.slug}/{page}/") for chat in chats for page in ("playground", "deployments")]
    assert {page.status_code for page in pages} == {200}
    assert [chat.ended for chat in chats] == [""] * 5, "pages are answered while all streams are open"
    assert engine_process.metric("engine_sequences_running") == 5

    *others, leaver = chats
    leaver.stop.set()
    assert wait_for(lambda: engine_process.metric("engine_sequences_running") == 4, limit_s=60)
    heard = [len(chat.text) for chat in others]
    grown = wait_for(lambda: all(len(chat.text) > so_far for chat, so_far in zip(others, heard, strict=True)), 60)
    assert grown, "the others go on"
    assert [chat.ended for chat in others] == [""] * 4
    assert leaver.ended == "stopped"

    for chat in others:
        chat.stop.set()
    for thread in threads:
        thread.join(60)
    assert [chat.ended for chat in others] == ["stopped"] * 4
    for model in MODELS:
        alone = Chat(others[0].browser, address, model)
        alone.read(4 * COMPARED)
        assert alone.ended == "length"
        said = {chat.text[:COMPARED] for chat in chats if chat.model == model}
        assert said == {alone.text[:COMPARED]}, "what others do changes no answer"
    assert len({chat.text[:COMPARED] for chat in chats}) == 3
    assert wait_for(lambda: statuses() == [200] * 3 + [499] * 5), "every request is counted once, as it ended"


def statuses() -> list[int]:
    with all_teams("test reads counts"):
        return sorted(InferenceRecord.unscoped.values_list("status", flat=True))
