"""Compiled pages that tests share: compiling one imports Gradio, 2.3 s of a core, and what comes out is the same."""

from __future__ import annotations

import contextlib
from pathlib import Path

from fooocus.ui.compiled import FOLDER

SHARED = Path(__file__).resolve().parents[1] / ".cache" / FOLDER


def share(data: Path) -> None:
    """Let a folder of data use the compiled pages of all tests, and keep its own there."""
    if not (data / FOLDER).exists():
        SHARED.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # Windows lets not everybody make links; then each compiles its own
            (data / FOLDER).symlink_to(SHARED, target_is_directory=True)
