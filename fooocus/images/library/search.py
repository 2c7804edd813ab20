"""What is looked for, as SQL: the texts are values, never a part of a statement."""

from __future__ import annotations

import dataclasses

from fooocus.images.library.fold import terms


@dataclasses.dataclass(frozen=True)
class Query:
    """Ask for pictures whose prompt has every word of ``words``, and that are as the other fields say."""

    words: str = ""
    model: str = ""
    style: str = ""
    favourite: bool = False


def conditions(query: Query, *, day: str = "", rows: bool = False) -> tuple[str, str, tuple[str, ...]]:
    """Return the tables, the WHERE clause and its values. ``rows``: columns of pictures are wanted, not only days."""
    words = terms(query.words)
    needs_rows = rows or bool(query.model) or query.favourite
    source = "pictures"
    if words and not needs_rows:
        source = "words"
    elif words:
        source = "pictures JOIN (SELECT id, seed AS digits, folded FROM words) USING (id)"
    clauses: list[str] = []
    values: list[str] = []
    if day:
        clauses.append("day = ?")
        values.append(day)
    if query.model:
        clauses.append("model = ?")
        values.append(query.model)
    if query.favourite:
        clauses.append("favourite")
    if query.style:
        clauses.append("id IN (SELECT id FROM styles WHERE style = ?)")
        values.append(query.style)
    seed = "digits" if needs_rows else "seed"
    for word in words:
        # A number is also the seed of a picture.
        clauses.append(f"(instr(folded, ?) OR {seed} = ?)" if word.isdecimal() else "instr(folded, ?)")
        values += [word, word] if word.isdecimal() else [word]
    return source, f" WHERE {' AND '.join(clauses)}" if clauses else "", tuple(values)
