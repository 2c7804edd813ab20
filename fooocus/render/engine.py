"""One picture from start to end, and one job of several: the worker's side of everything.

Read :meth:`Engine.render` first; it is the whole way of a picture: texts, sigmas, noise, the denoiser that changes from
base to refiner, the sampler's steps, pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from fooocus.config import Config
from fooocus.diffusion.denoisers import denoiser, switch_at
from fooocus.diffusion.noise import starting_noise
from fooocus.diffusion.prediction import start
from fooocus.diffusion.samplers import advance, noise_for, sampler_named, sigmas_for
from fooocus.diffusion.schedules import sdxl_table
from fooocus.diffusion.state import Denoise, State
from fooocus.errors import DeviceOutOfMemory, FooocusError, RequestError, StorageError
from fooocus.events import Notice, Saved, Stage, StageName, Step
from fooocus.families import attention
from fooocus.images.log import append_to_log
from fooocus.images.metadata import Format, encode, fits, read_recipe, record, without_folders
from fooocus.images.store import picture_path, save_picture
from fooocus.jobs.worker import Control, Emit, WorkItem
from fooocus.loading.catalog import Catalog
from fooocus.loading.checkpoint import Role
from fooocus.loading.device import choose_device, is_out_of_memory
from fooocus.loading.embeddings import Embeddings, EncoderKind
from fooocus.loading.memory import Memory
from fooocus.models.catalogue import FOLDERS
from fooocus.models.elsewhere import placed
from fooocus.models.hashes import FileMemory
from fooocus.prompt.plan import plan
from fooocus.prompt.stock import load_stock
from fooocus.render.conditioning import Prompts, predictor, sizes_at
from fooocus.render.hashes import FileHashes
from fooocus.render.interrupt import interruptible
from fooocus.render.latents import LatentsFile, decode
from fooocus.render.preview import preview_jpeg
from fooocus.render.text import Encoder, encode_text
from fooocus.request import Recipe, Request

# A request's word for a format, what the encoder calls it, and how its files end.
_FORMATS: Mapping[str, tuple[Format, str]] = {"png": ("png", "png"), "jpeg": ("jpeg", "jpg"), "webp": ("webp", "webp")}
# The two encoders' names in a text's vocabulary, and what each was trained to see behind the end of a text.
_ENCODERS: Mapping[str, tuple[EncoderKind, int]] = {"text_l": ("l", 49407), "text_g": ("g", 0)}


class Skipped(FooocusError):
    """The person wants the next picture. Leaves the present one; never shown."""


@dataclasses.dataclass(frozen=True)
class Files:
    """The model files of a recipe, found on disk."""

    base: Path
    refiner: Path | None
    loras: tuple[tuple[Path, float], ...]
    vae: Path | None

    def all(self) -> list[Path]:
        """List every file."""
        return [path for path in (self.base, self.refiner, self.vae, *(file for file, _ in self.loras)) if path]


_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Watch:
    """How the making of one picture is told and interrupted.

    ``stage`` is called at the begin of a part, ``step`` after every sampling step with the number of all steps,
    ``check`` between the blocks of a network (it leaves by raising), ``notice`` with what the person may want to know.
    """

    stage: Callable[[StageName], object] = lambda name: None
    step: Callable[[State, int], object] = lambda state, steps: None
    check: Callable[[], object] = lambda: None
    notice: Callable[[str], object] = lambda text: None


SILENT = Watch()


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A finished picture: its pixels, and its latents (1, 4, h, w) divided by the VAE's scale."""

    image: Image.Image
    latents: Tensor


class Engine:
    """Makes pictures. Constructed once per worker; loads weights when the first recipe asks for them.

    ``latents_file`` collects the final latents of a job's pictures for inspection; ``previews`` says whether steps
    carry a picture of how far it is. ``outside`` are the model files outside the model folders that requests may name;
    ``None`` allows any, for requests that the computer's own user writes. ``memory`` holds the weights, for whoever
    wants to look at them.
    """

    def __init__(
        self,
        config: Config,
        *,
        latents_file: Path | None = None,
        previews: bool = True,
        outside: Collection[str] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._config = config
        self._latents_file = latents_file
        self._previews = previews
        self._memory = memory or Memory(choose_device(config.device, config.dtype))
        self._device = self._memory.device
        folders = {kind: config.folders(folder) for kind, folder in FOLDERS.items()}
        self._catalog = Catalog(folders, lambda: placed(config.data), outside=outside)
        self._hashes = FileHashes(FileMemory(config.data / "models.sqlite"))
        self._embeddings = Embeddings(config.folders("embeddings"))
        self._texts: dict[Role, tuple[tuple[object, ...], Prompts]] = {}  # what was encoded last, and from what
        logging.getLogger("fooocus.render").info("computing on %s", self._device.reason)

    @property
    def computing_on(self) -> str:
        """The device and the number format, with the reasons, for a person."""
        return self._device.reason

    def run(self, job: WorkItem, emit: Emit, control: Control) -> None:
        """Make every picture of a job that is not saved yet; raises what should end the job."""
        request = Request.from_json(job.request)
        recipes = self._plan(request)
        format, suffix = _FORMATS[request.format]
        done = {saved.picture for saved in job.saved}
        latents = self._latents_file and LatentsFile(self._latents_file, recipes)
        told: set[str] = set()
        self._texts.clear()  # an embedding or a LoRA file may be another one since the last job
        emit(Notice(f"Computing on {self._device.reason}."))
        for number, recipe in enumerate(recipes, 1):
            control.check()
            if number in done:
                continue
            path = picture_path(self._config.outputs, job.created_ms, number, recipe.seed, suffix)
            if job.attempt > 1 and _is_picture_of(path, recipe):
                # The first attempt died between saving the picture and telling of it.
                emit(Saved(number, len(recipes), str(path), recipe.seed))
                continue
            watch = self._watch(emit, control, number, len(recipes), told)
            try:
                rendered = self.render(recipe, watch)
            except Skipped:
                control.skipped()
                emit(Notice(f"Picture {number} was skipped."))
                continue
            watch.stage("saving")
            path = self._save(path, rendered.image, recipe, format, watch)
            self._log(path, recipe, watch)
            if latents:
                latents.add(rendered.latents)
            emit(Saved(number, len(recipes), str(path), recipe.seed))

    def warm(self, values: Mapping[str, Any]) -> None:
        """Do what can be done before the first request: ``values["request"]`` is what the page begins with.

        The libraries are loaded; with a graphics card the models too, which then costs little more than their mapping.
        On a processor they would be converted to float32, gigabytes that nobody has asked for yet.
        """
        import diffusers
        import transformers

        _ = diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModelWithProjection
        if self._device.device.type == "cpu":
            return
        request = dataclasses.replace(Request.from_json(values["request"]), seed=0, count=1)
        files = self._find(self._plan(request)[0])
        self._memory.prepare(files.base, "base", files.loras)
        for kind in ("text_l", "text_g", "unet"):
            with self._memory.use(files.base, "base", kind):
                continue

    @torch.no_grad()
    def render(self, recipe: Recipe, watch: Watch = SILENT) -> Rendered:
        """Make the picture of one recipe. Raises the subclasses of :class:`~fooocus.errors.FooocusError`."""
        sampler = sampler_named(recipe.sampler)
        sigmas_for(sampler, recipe.schedule, recipe.steps, sdxl_table())  # refuses the impossible before loading
        files = self._find(recipe)
        self._memory.keep_only(files.all())
        if self._config.metadata:
            self._hashes.begin(files.all())
        watch.stage("loading")
        for report in self._memory.prepare(files.base, "base", files.loras):
            watch.notice(f"LoRA {report.name}: {report.matched} of {report.total} modules matched.")
        if files.refiner is not None:
            self._memory.prepare(files.refiner, "refiner")

        architecture = self._memory.architecture(files.base, "base")
        table = sdxl_table(zero_terminal_snr=architecture.zero_terminal_snr)
        sigmas = sigmas_for(sampler, recipe.schedule, recipe.steps, table)
        shape = (1, 4, recipe.size.height // 8, recipe.size.width // 8)
        with noise_for(sampler, recipe.seed, shape, sigmas, device=self._device.device) as noise, ExitStack() as placed:
            watch.stage("reading")
            base = self._denoiser(placed, files.base, "base", recipe, watch)
            refiner = files.refiner and self._denoiser(placed, files.refiner, "refiner", recipe, watch)
            watch.stage("sampling")
            state = State(0, start(starting_noise(recipe.seed, shape).to(self._device.device), sigmas))
            denoise_at = switch_at(base, refiner or None, recipe.switch)
            while state.step < len(sigmas) - 1:
                if state.step == recipe.switch:
                    watch.stage("refining")
                watch.check()
                step = functools.partial(advance, sampler, denoise_at, state, sigmas, noise)
                state = self._with_room(step)
                watch.step(state, len(sigmas) - 1)

        watch.stage("decoding")
        latents = state.x.cpu() / architecture.latent_scale
        return Rendered(self._with_room(lambda: self._decode(files, latents, watch)), latents)

    def _decode(self, files: Files, latents: Tensor, watch: Watch) -> Image.Image:
        with self._memory.use_vae(files.base, files.vae) as vae, interruptible(vae, watch.check):
            return decode(vae, latents)

    def _with_room(self, work: Callable[[], _Result]) -> _Result:
        """Do the work; when the device's memory runs out, send away what is not in use and do it once more."""
        for attempt in (1, 2):
            try:
                return work()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # Only here, behind the handler, has the error let go of the tensors that its trace holds.
            if attempt == 1:
                self._memory.make_room()
        raise DeviceOutOfMemory(
            "The graphics card's memory ran out.",
            "Choose a smaller size, close other programs that use the card, or start with --device cpu.",
        )

    def _plan(self, request: Request) -> tuple[Recipe, ...]:
        stock = load_stock(self._config.styles_folder)
        return plan(request, stock.styles, stock.lists)

    def _save(self, path: Path, image: Image.Image, recipe: Recipe, format: Format, watch: Watch) -> Path:
        """Save a picture with its recipe; one that its format has no room for is saved beside it."""
        metadata = self._config.metadata
        hashes = self._hashes.by_name(watch.check) if metadata else {}
        path = save_picture(path, encode(image, recipe, format, metadata=metadata, hashes=hashes))
        if metadata and not fits(recipe, format):
            save_picture(path.with_suffix(".json"), record(recipe).encode())
        return path

    def _log(self, path: Path, recipe: Recipe, watch: Watch) -> None:
        """Enter a saved picture in its day's page; a page that cannot be written must not cost the picture."""
        try:
            append_to_log(path, recipe)
        except StorageError as error:
            watch.notice(str(error))

    def _find(self, recipe: Recipe) -> Files:
        return Files(
            base=self._catalog.resolve("checkpoint", recipe.base),
            refiner=None if recipe.refiner is None else self._catalog.resolve("checkpoint", recipe.refiner),
            loras=tuple((self._catalog.resolve("lora", use.name), use.weight) for use in recipe.loras),
            vae=None if recipe.vae is None else self._catalog.resolve("vae", recipe.vae),
        )

    def _denoiser(self, placed: ExitStack, path: Path, role: Role, recipe: Recipe, watch: Watch) -> Denoise:
        """Return the denoise function of one model; its UNet is brought to the device at the first call."""
        architecture = self._memory.architecture(path, role)
        prompts = self._prompts(path, role, recipe)
        sizes = sizes_at(recipe, architecture.family)
        table = sdxl_table(zero_terminal_snr=architecture.zero_terminal_snr)

        @functools.cache
        def ready() -> Denoise:
            placed.close()  # from here on the other model's UNet may leave
            placed.callback(ready.cache_clear)
            unet = placed.enter_context(self._memory.use(path, role, "unet"))
            placed.enter_context(interruptible(unet, watch.check))
            placed.callback(attention.forget, unet)
            predict = predictor(unet, prompts, sizes, guided=recipe.guidance != 1, device=self._device.device)
            return denoiser(predict, table, architecture.prediction, recipe.guidance)

        return lambda x, sigma: ready()(x, sigma)

    def _prompts(self, path: Path, role: Role, recipe: Recipe) -> Prompts:
        """Return the encoded texts; the pictures of a job mostly share theirs, and then share this as well."""
        loras = recipe.loras if role == "base" else ()
        key = (path, recipe.positive_text, recipe.negative_text, recipe.clip_skip, loras)
        if role not in self._texts or self._texts[role][0] != key:
            self._texts[role] = key, self.read(path, role, recipe)
        return self._texts[role][1]

    def read(self, path: Path, role: Role, recipe: Recipe) -> Prompts:
        """Encode both texts of a recipe with the text encoders of one prepared model."""
        kinds = self._memory.architecture(path, role).family.text
        with ExitStack() as placed:
            encoders = [
                Encoder(placed.enter_context(self._memory.use(path, role, kind)), pad_id, name)
                for kind, (name, pad_id) in ((kind, _ENCODERS[kind]) for kind in kinds)
            ]
            cond, uncond = (
                encode_text(text, encoders, clip_skip=recipe.clip_skip, embeddings=self._embeddings)
                for text in (recipe.positive_text, recipe.negative_text)
            )
        return Prompts(cond, uncond)

    def _watch(self, emit: Emit, control: Control, number: int, count: int, told: set[str]) -> Watch:
        """Tell the making of one picture as events; the same notice only once a job."""

        def step(state: State, steps: int) -> None:
            seen = state.denoised if self._previews else None
            emit(Step(number, count, state.step, steps, None if seen is None else preview_jpeg(seen)))

        def check() -> None:
            control.check()
            if control.skipping():
                raise Skipped("The picture was skipped.")

        def notice(text: str) -> None:
            if text not in told:
                told.add(text)
                emit(Notice(text))

        return Watch(stage=lambda name: emit(Stage(name, number, count)), step=step, check=check, notice=notice)


def _is_picture_of(path: Path, recipe: Recipe) -> bool:
    """Say whether the file is there and carries exactly this recipe."""
    try:
        return path.is_file() and read_recipe(path) == without_folders(recipe)
    except (RequestError, OSError):
        return False
