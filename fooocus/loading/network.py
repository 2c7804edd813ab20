"""One network of a checkpoint in memory: built without allocating, then filled tensor by tensor from the mapped file.

The traps here are silent ones. Building under ``torch.device("meta")`` leaves CLIP's ``position_ids`` on meta, and the
forward pass then answers garbage without an error; hence ``accelerate.init_empty_weights``, which leaves buffers alone.
``load_state_dict(strict=False)`` with names of another library version loads nothing at all; hence every name and shape
is compared before the first byte is read. No dtype given must mean "as stored", never float32 at double the size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fooocus.errors import MismatchedModel
from fooocus.families.records import Blueprint, Source
from fooocus.loading.tensors import TensorFile, carried

_SHOWN = 3  # how many wrong tensors an error names


class Network:
    """One network in memory, in eval mode, frozen.

    On the CPU and in the file's dtype its parameters are the mapped file itself. Never write into such a one in place:
    the mapping is shared with :meth:`original`. Put another tensor there with :meth:`put`, take it back with
    :meth:`restore`.
    """

    def __init__(self, blueprint: Blueprint, module: nn.Module, file: TensorFile) -> None:
        self.blueprint = blueprint
        self.module = module
        self.patches: dict[str, object] = {}  # parameter name -> what is added to it now; kept by whoever adds
        self._file = file

    @property
    def kind(self) -> str:
        """ "unet", "vae", "text_l" or "text_g"."""
        return self.blueprint.kind

    def names(self) -> tuple[str, ...]:
        """List the module's parameters, all of which come from the file."""
        return tuple(self.blueprint.sources)

    def source(self, name: str) -> Source:
        """Say where in the file the parameter ``name`` is stored."""
        return self.blueprint.sources[name]

    def original(self, name: str) -> Tensor:
        """Return the stored value of parameter ``name``: a view of the file, in the module's layout.

        Never write into it: the memory is read-only, and the process would die of it.
        """
        source = self.blueprint.sources[name]
        return source.view(self._file.tensor(source.key))

    def put(self, name: str, value: Tensor) -> None:
        """Make ``value`` the parameter ``name``; shape, dtype and device are the caller's affair."""
        owner, _, leaf = name.rpartition(".")
        self.module.get_submodule(owner).register_parameter(leaf, nn.Parameter(value, requires_grad=False))

    def restore(self, name: str, *, over: bool = False) -> None:
        """Make the stored value the parameter ``name`` again, in the device and dtype that the parameter has now.

        With ``over`` it is written where the parameter stands, which must be no view of the file.
        """
        current = self.module.get_parameter(name)
        value = carried(self.original(name), current.device, current.dtype)
        if over:
            current.data.copy_(value)
        else:
            self.put(name, value)


def load_network(
    blueprint: Blueprint,
    file: TensorFile,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    check: Callable[[], object] = lambda: None,
) -> Network:
    """Build the network of ``blueprint`` and fill it from ``file``.

    ``dtype`` None keeps the file's own. Tensors are cast and moved one at a time, so no second copy of the network ever
    exists. ``check`` is called between them and may leave by raising. Raises
    :class:`fooocus.errors.MismatchedModel` if names or shapes differ from the module's in any way.
    """
    module = empty_module(blueprint)
    check_fit(blueprint, module, file)
    network = Network(blueprint, module, file)
    for name in network.names():
        check()
        network.put(name, network.original(name).to(device=device, dtype=dtype))
    for owner in module.modules():
        for leaf, buffer in owner.named_buffers(recurse=False):
            owner.register_buffer(leaf, buffer.to(device=device), leaf not in owner._non_persistent_buffers_set)
    return network


def empty_module(blueprint: Blueprint) -> nn.Module:
    """Build a network whose parameters have shapes but no memory; its buffers are real."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        module = _construct(blueprint.kind, dict(blueprint.config))
    return module.eval().requires_grad_(False)


def check_fit(blueprint: Blueprint, module: nn.Module, file: TensorFile) -> None:
    """Compare every parameter's name and shape with the file's header. Raises :class:`MismatchedModel`."""
    wanted = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    found = {name: source.shape(file.header.tensors[source.key].shape) for name, source in blueprint.sources.items()}
    problems = [f"missing: {name}" for name in wanted if name not in found]
    problems += [f"unexpected: {blueprint.sources[name].key}" for name in found if name not in wanted]
    problems += [
        f"misshapen: {blueprint.sources[name].key} is {_by(found[name])}, not {_by(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise MismatchedModel(
            f"{file.path.name} does not fit its own {blueprint.kind}: {'; '.join(problems[:_SHOWN])}{more}.",
            "The file is damaged or made by a tool this program does not know; get it again from its source.",
        )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _construct(kind: str, config: dict[str, Any]) -> nn.Module:
    # The libraries take seconds to import, and reading a header must not cost that.
    if kind == "unet":
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel(**config)
    if kind == "vae":
        from diffusers import AutoencoderKL

        return AutoencoderKL(**config)
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    text_model = CLIPTextModel if kind == "text_l" else CLIPTextModelWithProjection
    return text_model(CLIPTextConfig(**config))
