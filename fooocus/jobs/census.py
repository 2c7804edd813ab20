"""Who has which jobs in the queue or on the card, for those who ask all the time: counted anew only after a change."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

_NONE: frozenset[str] = frozenset()


@dataclasses.dataclass(frozen=True)
class Around:
    """Hold what goes on with one person's jobs: the ids of those that wait and run, and whether all are held back."""

    waiting: frozenset[str] = _NONE
    running: frozenset[str] = _NONE
    held: bool = False


class Census:
    """All jobs that wait or run, given as rows of owner, id and state; ``holds`` are the owners who hold theirs."""

    def __init__(self, rows: Iterable[tuple[str, str, str]], holds: Collection[str]) -> None:
        found: dict[str, dict[str, set[str]]] = {owner: {} for owner in holds}
        for owner, id, state in rows:
            found.setdefault(owner, {}).setdefault(state, set()).add(id)
        self._around = {
            owner: Around(
                frozenset(states.get("waiting", ())), frozenset(states.get("running", ())), held=owner in holds
            )
            for owner, states in found.items()
        }

    def around(self, owner: str) -> Around:
        """Return what goes on with the jobs of ``owner``."""
        return self._around.get(owner, Around())
