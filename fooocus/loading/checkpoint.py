"""A checkpoint file: what is in it is known from its header, and its networks are loaded one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from fooocus.errors import MismatchedModel, UnsupportedModel
from fooocus.families.detect import recognise, recognise_vae
from fooocus.families.records import Architecture, Blueprint, Kind
from fooocus.loading.network import Network, load_network
from fooocus.loading.tensors import TensorFile

Role = Literal["base", "refiner"]
_FAMILY_OF_ROLE = {"base": "sdxl_base", "refiner": "sdxl_refiner"}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; no weights are in memory until :meth:`load`."""

    path: Path
    architecture: Architecture
    file: TensorFile

    @property
    def name(self) -> str:
        """The file's name, for the person."""
        return self.path.name

    def load(
        self,
        kind: Kind,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> Network:
        """Load one of the networks; ``dtype`` None keeps the file's own, which on a CPU copies nothing.

        ``check`` is called between its tensors and may leave by raising. Raises
        :class:`fooocus.errors.MismatchedModel` if the file lacks it or any name or shape differs.
        """
        return load_network(self._blueprint(kind), self.file, device=device, dtype=dtype, check=check)

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def _blueprint(self, kind: Kind) -> Blueprint:
        blueprint = self.architecture.blueprints.get(kind)
        if blueprint is None and kind == "vae":
            raise MismatchedModel(f"{self.name} has no VAE inside.", "Choose a VAE file besides, from models/vae.")
        if blueprint is None:
            raise MismatchedModel(f"{self.name} has no network {kind}.")
        return blueprint


def open_checkpoint(path: Path, *, role: Role | None = None) -> Checkpoint:
    """Open a checkpoint and recognise it; only the header is read.

    With ``role`` a base given as the refiner, or the reverse, is refused. Raises the subclasses of
    :class:`fooocus.errors.ModelError`.
    """
    file = TensorFile(path)
    architecture = recognise(file.header.shapes, file.header.metadata, file=path.name)
    family = architecture.family
    if role is not None and family.name != _FAMILY_OF_ROLE[role]:
        wanted, remedy = (
            ("base model", "Choose it under Refiner, and an SDXL base as the base model.")
            if role == "base"
            else ("refiner", "Choose the SDXL refiner there, or no refiner at all.")
        )
        raise UnsupportedModel(f"{path.name} is an {family.title} and cannot be the {wanted}.", remedy)
    return Checkpoint(path, architecture, file)


def open_vae(path: Path, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> Network:
    """Load the VAE of a stand-alone file, in the original or in diffusers' naming, or of a checkpoint.

    Raises the subclasses of :class:`fooocus.errors.ModelError`.
    """
    file = TensorFile(path)
    blueprint = recognise_vae(file.header.shapes, file.header.metadata, file=path.name)
    return load_network(blueprint, file, device=device, dtype=dtype)
