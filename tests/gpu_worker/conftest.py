"""What trainer and engine tests share."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def kernel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where kernels are kept that one test has compiled, for the others."""
    return tmp_path_factory.mktemp("cache")
