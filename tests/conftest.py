"""What all tests share: the miniature models and a place of their own for every test's files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Weights are local; a library that would ask a hub must fail in the tests as it would on a lonely computer.
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1")
# The miniatures are too small to share out; several threads only wait for each other, for minutes on a busy computer.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let browser tests, and those marked ``clock``, try twice more: a busy machine can miss a moment.

    FOOOCUS_TEST_TRIES=1 shows every miss.
    """
    tries = int(os.environ.get("FOOOCUS_TEST_TRIES", "3"))
    for item in items:
        if item.path.parent.name == "browser" or item.get_closest_marker("clock"):
            item.add_marker(pytest.mark.flaky(reruns=tries - 1))


@pytest.fixture(scope="session")
def tiny() -> Path:
    """Return the folder of the miniature base, refiner and LoRA."""
    from tests.tiny import tiny_folder

    return tiny_folder()
