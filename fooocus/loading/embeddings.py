"""Textual-inversion embeddings: learned vectors that stand for a word, for one or both text encoders.

An ``embedding:name`` in a prompt is answered from the embedding folders. Files are ``.safetensors`` only; ``.pt`` and
``.bin`` can run code when opened and are refused in words. What the vectors do to a text stands in ``render/text.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fooocus.errors import MismatchedModel, MissingModel, UnreadableModel, UnsupportedModel
from fooocus.families.tokenizer import EMBEDDING_PREFIX
from fooocus.models.scan import walk

EncoderKind = Literal["l", "g"]
"""CLIP-L or OpenCLIP-G, the two text encoders of SDXL."""

ENCODER_TITLES: Mapping[EncoderKind, str] = {"l": "CLIP-L", "g": "CLIP-G"}

_KEYS: Mapping[str, EncoderKind] = {"clip_l": "l", "clip_g": "g"}
_SUFFIX = ".safetensors"
_REFUSED = (".pt", ".bin")


@dataclass(frozen=True)
class Embedding:
    """The vectors of one file, each tensor (k, D) in float32.

    ``keyed`` vectors name their encoder (the usual form for SDXL); ``plain`` ones fit whichever encoder is D wide.
    """

    path: Path
    keyed: Mapping[EncoderKind, Tensor]
    plain: Tensor | None

    def vectors(self, kind: EncoderKind, width: int) -> Tensor | None:
        """Return the vectors (k, ``width``) for an encoder, or None when the file has nothing for it.

        Raises :class:`MismatchedModel` when the file names this encoder but is made for one of another width.
        """
        if self.plain is not None:
            return self.plain if self.plain.shape[1] == width else None
        vectors = self.keyed.get(kind)
        if vectors is not None and vectors.shape[1] != width:
            raise MismatchedModel(
                f"The embedding {self.path.name} is {vectors.shape[1]} wide for {ENCODER_TITLES[kind]}, "
                f"but this model's {ENCODER_TITLES[kind]} is {width} wide.",
                "Use an embedding that was made for this kind of model.",
            )
        return vectors

    def widths(self) -> str:
        """Describe what the file holds, for messages."""
        if self.plain is not None:
            return f"{self.plain.shape[1]} wide"
        return ", ".join(f"{ENCODER_TITLES[kind]} {vectors.shape[1]} wide" for kind, vectors in self.keyed.items())


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of some folders, looked for at each use, so that a new file needs no restart."""

    folders: tuple[Path, ...]

    def find(self, name: str) -> Path:
        """Return the file that ``name`` stands for.

        A name is a path below one of the folders or its last part, with or without ``.safetensors``; the case of
        letters does not matter. Only listed files are compared, so no name leads out of the folders. Raises
        :class:`MissingModel` with the nearest names, or :class:`UnreadableModel` where only a ``.pt`` or ``.bin`` fits.
        """
        wanted = name.replace("\\", "/").casefold().removesuffix(_SUFFIX)
        names: dict[str, str] = {}
        refused: Path | None = None
        found: Path | None = None
        for path, shown in self._files():
            if path.suffix.casefold() != _SUFFIX:
                if wanted in (*_forms(shown), *(form + path.suffix.casefold() for form in _forms(shown))):
                    refused = path
                continue
            if wanted == shown.casefold():
                return path
            if found is None and wanted in _forms(shown):
                found = path
            names.update(dict.fromkeys(_forms(shown), shown))
        if found is not None:
            return found
        if refused is not None:
            raise UnreadableModel(
                f"The embedding {refused.name} is a {refused.suffix} file, which can run hidden programs when opened.",
                "Get the embedding as .safetensors, or convert it where you trust it.",
            )
        near = list(dict.fromkeys(names[form] for form in difflib.get_close_matches(wanted, names, n=4)))
        folders = ", ".join(str(folder) for folder in self.folders)
        raise MissingModel(
            f"There is no embedding named {name!r} in {folders}.",
            f"Did you mean {', '.join(near)}?" if near else "Put its .safetensors file there, or remove the word.",
        )

    def stamp(self, text: str) -> object:
        """Return what is another value when the embeddings that ``text`` may name are others."""
        if EMBEDDING_PREFIX not in text.casefold():
            return None
        stats = ((str(path), path.stat()) for path, _ in self._files())
        return tuple((path, status.st_mtime_ns, status.st_size) for path, status in stats)

    def read(self, name: str) -> Embedding:
        """Read the embedding ``name``. Raises what :meth:`find` and :func:`read_embedding` raise."""
        return read_embedding(self.find(name))

    def _files(self) -> Iterator[tuple[Path, str]]:
        """List the files as (path, name below the folder without suffix), in a fixed order."""
        for folder in self.folders:
            for path in (Path(stamp.path) for stamp in walk(folder)):
                if path.suffix.casefold() in (_SUFFIX, *_REFUSED):
                    yield path, path.relative_to(folder).with_suffix("").as_posix()


def read_embedding(path: Path) -> Embedding:
    """Read one ``.safetensors`` embedding: ``clip_l`` and ``clip_g``, ``emb_params``, or one tensor of any name.

    Raises :class:`UnreadableModel` for bytes that are no safetensors file or vectors that are not finite,
    :class:`UnsupportedModel` for a file that holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = sorted(file.keys())
            keyed = [name for name in names if name in _KEYS]
            chosen = keyed or (["emb_params"] if "emb_params" in names else names if len(names) == 1 else [])
            shapes = {name: list(file.get_slice(name).get_shape()) for name in chosen}
            if not chosen or not all(1 <= len(shape) <= 2 and 0 not in shape for shape in shapes.values()):
                raise UnsupportedModel(
                    f"{path.name} is not a textual-inversion embedding.",
                    "An embedding holds the tensors clip_l and clip_g, or one tensor of vectors.",
                )
            tensors = {name: file.get_tensor(name).float() for name in chosen}
    except (SafetensorError, OSError) as error:
        raise UnreadableModel(
            f"{path.name} is not a safetensors file, or is cut short ({error}).", "Download the embedding again."
        ) from error
    vectors = {name: tensor.reshape(-1, tensor.shape[-1]) for name, tensor in tensors.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in vectors.values()):
        raise UnreadableModel(f"The embedding {path.name} holds values that are not finite.", "Download it again.")
    if keyed:
        return Embedding(path, {_KEYS[name]: tensor for name, tensor in vectors.items()}, None)
    return Embedding(path, {}, vectors[chosen[0]])


def _forms(shown: str) -> tuple[str, str]:
    """The two ways of asking for a file: its path below the folder, and its last part."""
    return shown.casefold(), shown.casefold().rsplit("/", 1)[-1]
