"""A tiny base model, three random adapters in PEFT's own format, and transformers as the judge."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from datasets_app.rendering import ChatRenderer
from gpu_worker.compiled import CACHE_VARIABLE
from tests.gpu_worker.engine.driver import Driver, make_driver
from tests.gpu_worker.engine.reference import Reference, make_adapter
from tests.tiny_model import make_tiny_model

ADAPTERS = ("north", "south", "west")


@pytest.fixture
def compiled_kernels(kernel_cache: Path) -> Iterator[None]:
    """Steps of compiled kernels, as in production; the other tests take the plain operations of other machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(kernel_cache))
        yield


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def adapter_dirs(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Different ranks, targets and seeds: nothing about them is alike."""
    folder = tmp_path_factory.mktemp("adapters")
    options = {
        "north": {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"},
        "south": {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
        "west": {"r": 3, "lora_alpha": 16, "target_modules": ["o_proj", "down_proj", "k_proj"], "use_rslora": True},
    }
    return {
        name: make_adapter(model_dir, folder / name, seed=seed, **options[name]) for seed, name in enumerate(ADAPTERS)
    }


@pytest.fixture(scope="session")
def reference(model_dir: Path, adapter_dirs: dict[str, Path]) -> Reference:
    return Reference(model_dir, adapter_dirs)


@pytest.fixture(scope="session")
def renderer(model_dir: Path) -> ChatRenderer:
    return ChatRenderer.load(model_dir)


@pytest.fixture(scope="session")
def prompt_ids(renderer: ChatRenderer) -> Callable[[str], list[int]]:
    def render(text: str) -> list[int]:
        return renderer.prompt_ids([{"role": "user", "content": text}])

    return render


@pytest.fixture
def driver(model_dir: Path, renderer: ChatRenderer, adapter_dirs: dict[str, Path]) -> Driver:
    return make_driver(model_dir, renderer, adapter_dirs)
