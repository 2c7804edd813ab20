"""One picture from start to end, and one job of several: the worker's side of everything.

Read :meth:`Engine.render` first; it is the whole way of a picture: texts, sigmas, noise, the denoiser that changes from
base to refiner, the sampler's steps, pixels.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fooocus.config import Config, read_fast
from fooocus.diffusion.denoisers import denoiser, switch_at
from fooocus.diffusion.samplers import advance, sampler_named, sigmas_for
from fooocus.diffusion.schedules import sdxl_table
from fooocus.diffusion.state import Denoise, State, join, split
from fooocus.errors import DeviceOutOfMemory, ModelError
from fooocus.events import StageName
from fooocus.jobs.worker import Control, Emit, WorkItem
from fooocus.loading.catalog import Catalog
from fooocus.loading.checkpoint import Role
from fooocus.loading.device import choose_device, is_out_of_memory
from fooocus.loading.embeddings import Embeddings, EncoderKind
from fooocus.loading.limits import Limits
from fooocus.loading.memory import Memory
from fooocus.memory.batches import at_once, widened
from fooocus.memory.plan import Plan
from fooocus.memory.turns import base_apart, pixels_apart
from fooocus.memory.words import sentence
from fooocus.models.catalogue import FOLDERS
from fooocus.models.elsewhere import placed
from fooocus.models.hashes import FileMemory
from fooocus.prompt.plan import plan
from fooocus.prompt.stock import load_stock
from fooocus.render.conditioning import Prompts, asks_together, predictor, sizes_at
from fooocus.render.fast import FastPath
from fooocus.render.hashes import FileHashes
from fooocus.render.interrupt import interruptible
from fooocus.render.job import TOGETHER, JobRun, Part, Rendered
from fooocus.render.latents import check_latents, decode_surely
from fooocus.render.preview import SMALL_VAE_CHANNELS, Shutter, jpeg, known_mix, measured_mix, preview_jpeg
from fooocus.render.room import with_room
from fooocus.render.small_decoder import FOLDER as SMALL_DECODERS
from fooocus.render.small_decoder import SmallDecoder, find_small_decoder
from fooocus.render.text import Encoder, TextConditioning, encode_text
from fooocus.render.watch import SILENT, TooMany, Watch
from fooocus.render.way import Files, Way
from fooocus.request import Recipe, Request

_TEXTS = 4 * TOGETHER  # prompt and negative prompt, of base and refiner, for the pictures that are made part by part
LOOK_SECONDS = 0.15  # between two previews of a graphics card
_AHEAD_STEPS = 3  # before the refiner's turn its weights begin to travel, where there is room
# The two encoders' names in a text's vocabulary, and what each was trained to see behind the end of a text.
_ENCODERS: Mapping[str, tuple[EncoderKind, int]] = {"text_l": ("l", 49407), "text_g": ("g", 0)}


class Engine:
    """Makes pictures. Constructed once per worker; loads weights when the first recipe asks for them.

    ``latents_file`` collects the final latents of a job's pictures for inspection; ``previews`` says whether steps
    carry a picture of how far it is, ``waits`` that a picture which cannot be saved waits until it can, for jobs that
    nobody sits by. ``outside`` are the model files outside the model folders that requests may name;
    ``None`` allows any, for requests that the computer's own user writes. ``memory`` holds the weights, for whoever
    wants to look at them.
    """

    def __init__(
        self,
        config: Config,
        *,
        latents_file: Path | None = None,
        previews: bool = True,
        waits: bool = False,
        outside: Collection[str] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.config = config
        self._latents_file = latents_file
        self.previews, self.waits = previews, waits
        self.mix = known_mix()  # how the latents of the present model look
        self._mixes: dict[Path, Tensor] = {}
        self._small: SmallDecoder | None = None
        fast = read_fast(config.fast)
        self._memory = memory or Memory(
            choose_device(config.device, config.dtype, short_numbers=fast.short_numbers),
            limits=Limits(config.data / "memory.json"),
            vae_dtype=getattr(torch, config.vae_dtype),
        )
        self._device = self._memory.device
        # Float32 means all of it; cuDNN's convolutions would take ten bits (TF32), as many as a UNet in float16 has.
        torch.backends.cudnn.allow_tf32 = self._device.dtype != torch.float32
        self._shutter = Shutter(LOOK_SECONDS if self._device.apart else 0.0)
        self._batches = fast.batches
        self._fast = FastPath(fast, self._device.device)
        folders = {kind: config.folders(folder) for kind, folder in FOLDERS.items()}
        self._catalog = Catalog(folders, lambda: placed(config.data), outside=outside)
        self.hashes = FileHashes(FileMemory(config.data / "models.sqlite"))
        self._embeddings = Embeddings(config.folders("embeddings"))
        self._texts: OrderedDict[tuple[object, ...], TextConditioning] = OrderedDict()  # what was encoded, by what from
        logging.getLogger("fooocus.render").info("computing on %s", self._device.reason)

    @property
    def computing_on(self) -> str:
        """The device and the number format, with the reasons, for a person."""
        return self._device.reason

    def run(self, job: WorkItem, emit: Emit, control: Control) -> None:
        """Make every picture of a job that is not saved yet; raises what should end the job."""
        JobRun(self, job, emit, control, self._latents_file).run()

    def plan(self, request: Request) -> tuple[Recipe, ...]:
        """Return the recipes of a request, with the styles and word lists as they are now."""
        stock = load_stock(self.config.styles_folder)
        return plan(request, stock.styles, stock.lists)

    def leave_card(self) -> None:
        """Send every network home: the card is free for others."""
        self._small = None
        self._memory.make_room()

    def look(self, denoised: Tensor) -> bytes | None:
        """Return unfinished latents (1, 4, h, w) as a small JPEG, for previews.

        A graphics card has nothing to do while one is made: there it is ``None`` soon after the last one.
        """
        if not self._shutter.opens():
            return None
        picture = self._small.picture(denoised) if self._small else None
        return preview_jpeg(denoised, self.mix) if picture is None else jpeg(picture)

    def warm(self, values: Mapping[str, Any]) -> None:
        """Do what can be done before the first request: ``values["request"]``, if any, is what the page begins with.

        The libraries are loaded; with a graphics card the models too, which then costs little more than their mapping.
        On a processor they would be converted to float32, gigabytes that nobody has asked for yet.
        """
        import diffusers
        import transformers

        _ = diffusers.UNet2DConditionModel, diffusers.AutoencoderKL, transformers.CLIPTextModelWithProjection
        if self._device.device.type == "cpu" or "request" not in values:
            return
        request = dataclasses.replace(Request.from_json(values["request"]), seed=0, count=1)
        recipe = self.plan(request)[0]
        files = self._find(recipe)
        self._memory.prepare(files.base, "base", files.loras)
        if files.refiner is not None:
            self._memory.prepare(files.refiner, "refiner")
        plan = self._arrange(recipe, files, lambda line: None)
        if plan.base.way in ("stays", "takes turns"):
            for kind in ("text_l", "text_g", "unet"):
                with self._memory.use(files.base, "base", kind):
                    continue

    @torch.no_grad()
    def render(self, recipe: Recipe, watch: Watch = SILENT, begun: State | None = None) -> Rendered:
        """Make the picture of one recipe, or finish one that was ``begun`` and left after any of its steps.

        Raises the subclasses of :class:`~fooocus.errors.FooocusError`.
        """
        with self._memory.interruptible(watch.check):
            way = self._prepare(recipe, watch)
            state = self._sample((recipe,), way, watch, (begun,), way.steps)
            watch.stage("decoding")
            latents = state.x.cpu() / way.latent_scale
            vae = functools.partial(self._memory.use_vae, way.files.base, way.files.vae)
            pixels = functools.partial(decode_surely, vae, latents, self._memory, watch.check, watch.notice)
            return Rendered(with_room(self._memory, "decoding", pixels, watch.notice), latents)

    def parts(self, recipe: Recipe, watch: Watch = SILENT) -> tuple[Part, ...]:
        """Return the parts that are better done for several such pictures in turn; opens the files and makes the plan.

        Each ends where another network is wanted that would have to be brought. Raises what :meth:`render` raises.
        """
        with self._memory.interruptible(watch.check):
            plan = self._prepare(recipe, watch).plan
        wanted: dict[Part, bool] = {"base": bool(recipe.switch) and base_apart(plan), "steps": pixels_apart(plan)}
        return tuple(part for part, apart in wanted.items() if apart)

    def at_once(self, recipe: Recipe, watch: Watch = SILENT) -> int:
        """Return how many pictures that differ from this one in their seed only are to be made at once.

        Raises what :meth:`render` raises.
        """
        if not self._batches:
            return 1
        with self._memory.interruptible(watch.check):
            return at_once(self._prepare(recipe, watch).plan, self._memory.most_at_once())

    @torch.no_grad()
    def part(
        self,
        recipes: Sequence[Recipe],
        part: Part,
        watch: Watch = SILENT,
        begun: Sequence[State | None] = (None,),
        *,
        last: bool = True,
    ) -> tuple[State, ...]:
        """Do one part of a picture and return how far it is then, on the CPU; or of several pictures at once.

        Those differ in their seed only and are equally far. ``last`` says that no other picture's same part comes next.
        Raises what :meth:`render` raises, and :class:`~fooocus.render.watch.TooMany` where only fewer have room.
        """
        with self._memory.interruptible(watch.check):
            way = self._prepare(recipes[0], watch)
            stop = recipes[0].switch or 0 if part == "base" else way.steps
            return split(self._sample(recipes, way, watch, begun, stop, ahead=last).on("cpu"))

    def _prepare(self, recipe: Recipe, watch: Watch) -> Way:
        """Open the files of a recipe and make the plan; nothing is loaded yet."""
        sampler = sampler_named(recipe.sampler)
        sigmas_for(sampler, recipe.schedule, recipe.steps, sdxl_table())  # refuses the impossible before loading
        files = self._find(recipe)
        self._memory.keep_only(files.all())
        if self.config.metadata:
            self.hashes.begin(files.all())
        watch.stage("loading")
        for report in self._memory.prepare(files.base, "base", files.loras):
            watch.notice(f"LoRA {report.name}: {report.matched} of {report.total} modules matched.")
        if files.refiner is not None:
            self._memory.prepare(files.refiner, "refiner")
        plan = self._arrange(recipe, files, watch.notice)

        architecture = self._memory.architecture(files.base, "base")
        if self.previews:
            self.mix = self._mix(files)
            self._small = self._small_decoder(files, plan, watch)
        table = sdxl_table(zero_terminal_snr=architecture.zero_terminal_snr)
        sigmas = sigmas_for(sampler, recipe.schedule, recipe.steps, table)
        return Way(files, sampler, sigmas, architecture.latent_scale, plan)

    def _sample(
        self,
        recipes: Sequence[Recipe],
        way: Way,
        watch: Watch,
        begun: Sequence[State | None],
        stop: int,
        *,
        ahead: bool = True,
    ) -> State:
        """Walk the sampler from ``begun`` until ``stop`` steps are done, with all pictures at once. A step that is left
        by an error has changed nothing. With ``ahead`` the refiner's weights begin to travel before its turn.
        """
        recipe, device = recipes[0], self._device.device
        done = [state for state in begun if state is not None and state.step >= stop]
        if len(done) == len(recipes):
            return join(done)
        state = way.begin(recipes, begun, device)
        noise_left = way.noise(recipes, state.step, stop, device)
        with noise_left as noise, ExitStack() as placed, ExitStack() as wide:
            watch.stage("reading")
            files, switch = way.files, recipe.switch
            past = switch is not None and state.step >= switch  # then nothing asks the base any more
            roles = [(path, role) for path, role in files.unets() if role == "refiner" or not past]
            asked = {role: self._denoiser(placed, path, role, recipe, watch) for path, role in roles}
            denoise_at = switch_at(asked.get("base") or asked["refiner"], asked.get("refiner"), switch)
            if len(recipes) > 1:  # now that the texts are read: that may have taken a smaller plan
                wide.enter_context(self._memory.follow(self._widened(len(recipes))))
            told: StageName | None = None
            while state.step < stop:
                name: StageName = "sampling" if switch is None or state.step < switch else "refining"
                if name != told:
                    told = name
                    watch.stage(name)
                watch.check()
                if ahead and files.refiner and switch and state.step == max(1, switch - _AHEAD_STEPS):
                    self._memory.expect(files.refiner, "refiner", "unet")
                step = functools.partial(advance, way.sampler, denoise_at, state, way.sigmas, noise)
                state = with_room(self._memory, "sampling", step, watch.notice, placed.close, len(recipes))
                check_latents(state.x, recipe, state.step)
                watch.step(state, way.steps)
        return state

    def _widened(self, pictures: int) -> Plan:
        """Return the present plan with room for several pictures at once."""
        plan = self._memory.plan and widened(self._memory.plan, pictures)
        if plan is None:
            raise TooMany  # there is less memory than before
        return plan

    def _arrange(self, recipe: Recipe, files: Files, notice: Callable[[str], object]) -> Plan:
        """Decide what is kept where, and say so where it is more than a processor with room for everything."""
        plan = self._memory.arrange(files.base, files.refiner, recipe.size, guided=recipe.guidance != 1)
        if plan.space.card or plan.base.from_file:
            notice(sentence(plan))
        return plan

    def _mix(self, files: Files) -> Tensor:
        """Return how previews mix the channels of latents: SDXL's way, or measured where the VAE is a small one.

        Where there is no room for measuring, SDXL's way must do: a preview's colours are no reason to plan anew.
        """
        if not self._has_small_vae(files):
            return known_mix()
        architecture = self._memory.architecture(files.base, "base")
        if files.base not in self._mixes:
            try:
                with self._memory.use_vae(files.base) as vae:
                    self._mixes[files.base] = measured_mix(vae, architecture.latent_scale)
            except (DeviceOutOfMemory, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                return known_mix()
        return self._mixes[files.base]

    def _has_small_vae(self, files: Files) -> bool:
        """Say whether the VAE is a miniature's, which has latents of its own."""
        inside = self._memory.architecture(files.base, "base").blueprints.get("vae") if files.vae is None else None
        return inside is not None and inside.config["block_out_channels"][0] <= SMALL_VAE_CHANNELS

    def _small_decoder(self, files: Files, plan: Plan, watch: Watch) -> SmallDecoder | None:
        """Return the decoder for previews, where there is one and a card with room for it."""
        if not self._device.apart or plan.base.way != "stays" or self._has_small_vae(files):
            return None
        file = find_small_decoder(
            folder / SMALL_DECODERS for folder in (self.config.models, *self.config.extra_folders)
        )
        if file is None or (self._small is not None and self._small.file == file and self._small.has_room):
            return self._small if file else None
        try:
            return SmallDecoder(file, self._device.device, self._device.dtype)
        except ModelError as error:
            watch.notice(f"{error.sentence} {error.remedy}")
        except (DeviceOutOfMemory, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return None

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
        prompts = self._prompts(path, role, recipe, watch)
        sizes = sizes_at(recipe, architecture.family)
        table = sdxl_table(zero_terminal_snr=architecture.zero_terminal_snr)

        @functools.cache
        def ready() -> Denoise:
            placed.close()  # from here on the other model's UNet may leave
            placed.callback(ready.cache_clear)
            unet = placed.enter_context(self._memory.use(path, role, "unet"))
            placed.enter_context(interruptible(unet, watch.check))
            placed.enter_context(self._fast.arithmetic(unet, recipe.size))
            loras = self._memory.added(path, role, ("unet",))
            ask = self._fast.ask(unet, travels=self._memory.travels(role), loras=loras, notice=watch.notice)
            together = asks_together(self._memory.plan, prompts)
            predict = predictor(unet, prompts, sizes, guided=recipe.guidance != 1, together=together, ask=ask)
            return denoiser(predict, table, architecture.prediction, recipe.guidance)

        return lambda x, sigma: ready()(x, sigma)

    def _prompts(self, path: Path, role: Role, recipe: Recipe, watch: Watch) -> Prompts:
        """Return the encoded texts; each is known while encoders and embeddings are the same, whatever the other is."""
        encoders = self._memory.added(path, role, self._memory.architecture(path, role).family.text)
        texts = (recipe.positive_text, recipe.negative_text)
        keys = {text: (role, encoders, text, recipe.clip_skip, self._embeddings.stamp(text)) for text in texts}
        fresh = [text for text, key in keys.items() if key not in self._texts]
        if fresh:
            read = functools.partial(self.read, path, role, fresh, recipe.clip_skip, watch.check)
            encoded = with_room(self._memory, "text", read, watch.notice)
            self._texts |= {keys[text]: one for text, one in zip(fresh, encoded, strict=True)}
        for key in keys.values():
            self._texts.move_to_end(key)
        while len(self._texts) > _TEXTS:
            self._texts.popitem(last=False)
        cond, uncond = (self._texts[keys[text]] for text in texts)
        return Prompts(cond, uncond)

    def read(
        self, path: Path, role: Role, texts: Sequence[str], clip_skip: int, check: Callable[[], object] = lambda: None
    ) -> list[TextConditioning]:
        """Encode texts with the text encoders of one prepared model."""
        kinds = self._memory.architecture(path, role).family.text
        with ExitStack() as placed:
            encoders = []
            for kind in kinds:
                module = placed.enter_context(self._memory.use(path, role, kind))
                placed.enter_context(interruptible(module, check))
                name, pad_id = _ENCODERS[kind]
                encoders.append(Encoder(module, pad_id, name))
            return [encode_text(text, encoders, clip_skip=clip_skip, embeddings=self._embeddings) for text in texts]
