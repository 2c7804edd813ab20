"""Pocket's world: pictures show what their captions say, a seed gives one picture, and every part has its words."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch

from fooocus.prompt.styles import load_styles
from fooocus.render.preview import LATENT_TO_RGB
from pocket import checker, exams, names
from pocket.drawing import Frame, paint
from pocket.export import full_table
from pocket.networks import LATENT_SCALE, QUARTER, TEXT_HEADS, Unet, make_text, make_unet, make_vae
from pocket.samples import pictures, sample
from pocket.vae import begin_with_colours, standardise
from pocket.words import STRANGER, STYLES_FOLDER, Words
from pocket.world import (
    ELEMENTS,
    LOOK_OF_STYLE,
    LOOKS,
    MIXES,
    PALETTE,
    SHAPES,
    Backdrop,
    Scene,
    Thing,
    attribute_sizes,
    attributes,
    caption,
    place,
    possible,
    scene,
)

SIZES = ((144, 112), (112, 144), (288, 224))


@pytest.mark.parametrize("size", SIZES)
def test_a_seed_gives_one_picture(size: tuple[int, int]) -> None:
    first, again, other = (sample((seed, 7), size, "all") for seed in (3, 3, 4))
    assert first.picture.shape == (size[1], size[0], 3) and first.picture.dtype == np.uint8
    assert (first.picture == again.picture).all() and first.scene == again.scene and first.sizes == again.sizes
    assert (first.picture != other.picture).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", SIZES[:2])
def test_the_checker_reads_what_the_painter_paints(shape: str, size: tuple[int, int]) -> None:
    frame = Frame(*size)
    for number, colour in enumerate(PALETTE):
        behind = "white" if colour not in ("white", "yellow", "pink") else "blue"
        words = (("", ""), ("small", ""), ("large", ""), ("", "left"), ("", "top"))[number % 5]
        thing = place(shape, colour, frame.half, size=words[0], position=words[1])
        picture = paint(Scene("single", (thing,), Backdrop("plain", (behind,))), frame, np.random.default_rng(number))
        seen = checker.only_thing(picture)
        assert seen is not None and (seen.shape, seen.colour) == (shape, colour)
        assert checker.backdrop_colours(picture) == (behind, behind)
        assert checker.position_word(seen, frame) == (words[1] or "centre")
        if not words[1]:
            assert checker.size_word(seen) == words[0]


def test_the_checker_is_not_fooled() -> None:
    frame = Frame(144, 112)
    empty = paint(Scene("single", (), Backdrop("plain", ("red",))), frame, np.random.default_rng(0))
    assert checker.only_thing(empty) is None
    circle = Scene("single", (Thing("circle", "red", 0.5, 0, 0),), Backdrop("plain", ("white",)))
    seen = checker.only_thing(paint(circle, frame, np.random.default_rng(0)))
    assert seen is not None and seen.shape not in ("square", "star") and seen.colour != "orange"


def test_captions_name_everything_that_is_asked_for() -> None:
    synonyms = {"gray": "gra?e?y", "purple": "purple|violet"}
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shown = scene(rng, 288, 224, "objects")
        said = caption(shown, rng)
        for thing in shown.things:
            assert thing.shape in said and re.search(synonyms.get(thing.colour, thing.colour), said), said
        for colour in shown.backdrop.colours:
            assert re.search(synonyms.get(colour, colour), said), said


def test_a_thing_never_has_the_colour_of_its_backdrop() -> None:
    for seed in range(300):
        shown = scene(np.random.default_rng(seed), 288, 224, "objects")
        assert not {thing.colour for thing in shown.things} & set(shown.backdrop.colours)


def test_skies_hold_what_they_can() -> None:
    assert possible(("sun", "tree"), "night") == ("moon", "tree")
    assert possible(("moon", "stars"), "day") == ("sun", "clouds")
    assert possible(("boat",), "sunset") == ("sea", "boat")


@pytest.mark.parametrize("look", ("", *LOOKS))
def test_every_look_changes_the_picture_and_only_plain_does_not(look: str) -> None:
    shown = Scene("single", (Thing("star", "red", 0.5, 0, 0),), Backdrop("plain", ("blue",)))
    frame = Frame(144, 112)
    plain = paint(shown, frame, np.random.default_rng(5)).astype(int)
    painted = paint(dataclasses.replace(shown, look=look), frame, np.random.default_rng(5)).astype(int)
    assert (np.abs(painted - plain).mean() > 8) == bool(look)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("time", ("sunset", "night"))
def test_every_element_can_be_seen(element: str, time: str) -> None:
    if element not in possible((element,), time):
        return  # the sun at night
    frame = Frame(144, 112)
    others = ("clouds",) if element != "clouds" else ("mountains",)
    without, with_it = (
        paint(Scene("landscape", elements=names_, time=time), frame, np.random.default_rng(2)).astype(int)
        for names_ in (others, possible((*others, element), time))
    )
    assert (np.abs(with_it - without).max(-1) > 30).mean() > 0.003


def test_attributes_stay_in_their_ranges() -> None:
    sizes = attribute_sizes()
    for seed in range(200):
        known = attributes(scene(np.random.default_rng(seed), 288, 224))
        assert known.keys() == sizes.keys()
        assert all(-1 <= known[name] < sizes[name] for name in sizes)


def test_all_styles_that_stand_for_a_look_exist() -> None:
    styles = load_styles(STYLES_FOLDER)
    assert set(LOOK_OF_STYLE) <= set(styles.names)
    assert set(LOOK_OF_STYLE.values()) == set(LOOKS)


def test_a_small_original_is_blurred_and_said_to_be_small() -> None:
    made = [sample((seed, 1), (144, 112), "narrow") for seed in range(80)]
    sharp = [checker.edge_energy(one.picture) for one in made if one.sizes[0] >= 112 and not one.sizes[2]]
    blurred = [checker.edge_energy(one.picture) for one in made if one.sizes[0] < 60]
    assert len(sharp) > 20 and len(blurred) > 3
    assert np.median(blurred) < 0.5 * np.median(sharp)
    assert all(one.sizes[4:] == (112, 144) for one in made)


def test_outlines_and_mottle_are_told_apart() -> None:
    plain = np.full((112, 144, 3), 100, np.uint8)
    plain[30:80, 40:100] = (220, 60, 100)
    soft = plain.copy()
    soft[:, 38:43] = np.linspace(plain[:, 37], plain[:, 43], 7, axis=1)[:, 1:-1]
    soft[:, 97:102] = np.linspace(plain[:, 96], plain[:, 102], 7, axis=1)[:, 1:-1]
    soft[28:33], soft[77:82] = soft[27], soft[27]
    wave = 6 * np.sin(np.arange(144) / 4)[None, :, None] * np.sin(np.arange(112) / 4)[:, None, None]
    uneven = (plain + wave).astype(np.uint8)
    (sharp, none), (softer, _), (same, much) = map(checker.outlines_and_mottle, (plain, soft, uneven))
    assert none == 0 and sharp > 0.9 and softer < 0.5 * sharp
    assert much > 1 and same == pytest.approx(sharp, rel=0.1)


def test_words_know_captions_and_take_the_rest_for_strangers() -> None:
    words = Words()
    known, other = words.rows(["a red circle", "a red zebra circle"])[0]
    assert known[0] == words.begin and known[4] == words.end
    assert STRANGER not in known[:5] and STRANGER in other
    assert [row for row in other if row != STRANGER][:5] == list(known[:5])
    row_l, row_g = words.rows([""])
    assert list(row_l[0][:2]) == [words.begin, words.end] and row_g[0][2] != words.end


def test_the_vae_begins_as_one_that_knows_colours() -> None:
    torch.manual_seed(0)
    plan = dataclasses.replace(QUARTER, vae_widths=(8, 16, 16, 16))
    vae = make_vae(plan).eval()
    shown = pictures([sample((seed, 2), (96, 64), "narrow", plainly=True).picture for seed in range(4)])

    def through() -> torch.Tensor:
        with torch.no_grad():
            return vae.decode(vae.encode(shown).latent_dist.mean).sample

    untrained = (through() - shown).pow(2).mean()
    begin_with_colours(vae)
    begun = through()
    assert (begun - shown).pow(2).mean() < min(0.06, 0.3 * float(untrained))  # 0.06: 18 dB

    standardise(vae, iter([shown]))
    assert torch.allclose(through(), begun, atol=1e-3)
    with torch.no_grad():
        latents = vae.encode(shown).latent_dist.mean * LATENT_SCALE  # (B, 4, h, w)
    assert torch.allclose(latents.transpose(0, 1).flatten(1).cov(), torch.eye(4), atol=0.01)
    preview = torch.einsum("bchw,cr->brhw", latents, torch.tensor(LATENT_TO_RGB)).transpose(0, 1).flatten(1)
    blocks = torch.nn.functional.avg_pool2d(shown, 8).transpose(0, 1).flatten(1)
    for channel in range(3):  # the preview, made for SDXL, shows every colour more or less as it is
        assert torch.stack([preview[channel], blocks[channel]]).corrcoef()[0, 1] > 0.7


def test_names_lead_back_through_the_loader() -> None:
    """Every tensor of the three kinds of network gets a name that the program's loader turns into the same place."""
    from fooocus.families.layout import Declared
    from fooocus.families.sdxl_unet import read_unet
    from fooocus.families.sdxl_vae import read_vae

    for layers in ((0, 1, 2), (0, 1, 1, 0)):
        unet = make_unet(Unet((16,) * len(layers), layers), QUARTER, context_width=12, size_ids=6)
        stored = names.unet_tensors(unet.state_dict(), layers)
        shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
        found = read_unet(shapes, Declared(head_width=16, norm_groups=8))
        assert found.sources.keys() == unet.state_dict().keys()
        for name, tensor in unet.state_dict().items():
            assert stored[found.sources[name].key] is tensor or (stored[found.sources[name].key] == tensor).all()

    vae = make_vae(dataclasses.replace(QUARTER, vae_widths=(8, 16, 16, 16)))
    stored = names.vae_tensors(vae.state_dict(), 4)
    found = read_vae({name: tuple(tensor.shape) for name, tensor in stored.items()}, Declared(norm_groups=1))
    assert found.sources.keys() == vae.state_dict().keys()
    for name, tensor in vae.state_dict().items():
        assert (found.sources[name].view(stored[found.sources[name].key]) == tensor).all()


def test_the_text_encoders_names_lead_back_through_the_loader() -> None:
    from fooocus.families.clip_text import read_text_g, read_text_l
    from fooocus.families.layout import Declared

    words = Words()
    text_l, text_g = make_text(QUARTER, len(words), words.begin, words.end)
    full_l, full_g = (full_table(module.state_dict(), words) for module in (text_l, text_g))
    heads = Declared(text_l_heads=TEXT_HEADS, text_g_heads=TEXT_HEADS)
    stored = names.text_l_tensors(full_l) | names.text_g_tensors(full_g, 1)
    shapes = {name: tuple(tensor.shape) for name, tensor in stored.items()}
    read = (
        (read_text_l(shapes, "conditioner.embedders.0.transformer.", heads), full_l),
        (read_text_g(shapes, "conditioner.embedders.1.model.", heads), full_g),
    )
    for found, tensors in read:
        assert found.sources.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found.sources[name].view(stored[found.sources[name].key]), tensor), name
    table = full_g["text_model.embeddings.token_embedding.weight"]
    assert table.shape[0] == 49408 and len(table.unique(dim=0)) == len(words)


def test_the_painter_passes_its_own_exams() -> None:
    size = (144, 112)

    def painted(case: exams.Case, seed: int) -> np.ndarray:
        return paint(case.scene, Frame(*size), np.random.default_rng(seed))

    for number, case in enumerate(exams.singles(18, size, SHAPES)):
        assert all(exams.score_single(case, painted(case, number)).values()), case.prompt
        other = exams.singles(1, size, ("cross",))[0]
        assert not all(exams.score_single(case, painted(other, 0)).values())
    for number, case in enumerate(exams.pairs(9, size)):
        assert all(exams.score_pair(case, painted(case, number)).values()), case.prompt
    for number, case in enumerate(exams.backdrops(8, size, SHAPES)):
        assert all(exams.score_backdrop(case, painted(case, number)).values()), case.prompt
        plain = dataclasses.replace(case.scene, backdrop=Backdrop("plain", case.scene.backdrop.colours[:1]))
        assert checker.backdrop_kind(paint(plain, Frame(*size), np.random.default_rng(number))) == "plain"
    for number, case in enumerate(exams.singles(9, size, SHAPES, words=False)):
        seen = dataclasses.replace(case, scene=dataclasses.replace(case.scene, look="cinematic"))
        picture = painted(seen, number)
        assert exams.score_in_look(seen, picture) == {"colour": True, "shape": True, "backdrop": True}, case.prompt
        (thing,) = case.scene.things
        shape = "heart" if thing.shape == "cross" else "cross"
        for wrong in ({"shape": shape}, {"colour": case.scene.backdrop.colours[0]}):
            other = dataclasses.replace(seen.scene, things=(dataclasses.replace(thing, **wrong),))
            assert not all(exams.score_in_look(dataclasses.replace(seen, scene=other), picture).values())
    for number, case in enumerate(exams.looks(16, size, LOOKS, by_style=False)):
        said = exams.look_scorer("look")(case, painted(case, number))
        assert said == {"look": True, f"look: {case.scene.look}": True}, case.prompt
        plain = dataclasses.replace(case, scene=dataclasses.replace(case.scene, look=""))
        assert not exams.look_scorer("look")(case, painted(plain, number))["look"]
    asked = exams.singles(10, size, SHAPES)
    talked = exams.among_strangers(asked)
    assert all(case.prompt in other.prompt for case, other in zip(asked, talked, strict=True))
    assert [case.scene for case in asked] == [case.scene for case in talked] and talked[0].prompt != asked[0].prompt


def test_styles_that_a_world_does_not_draw_mean_nothing_in_it() -> None:
    words = Words()
    mute = {level: {style.name for style in words.mute(level)} for level in MIXES}
    assert set(LOOK_OF_STYLE) <= mute["narrow"] and mute["narrow"] == mute["objects"]
    assert mute["all"] and not mute["all"] & set(LOOK_OF_STYLE)
    drawn = [scene(np.random.default_rng(seed), 144, 112, "objects") for seed in range(200)]
    assert {one.kind for one in drawn} == {"single", "pair"} and not any(one.look for one in drawn)
    assert {"plain", "gradient", "striped"} == {one.backdrop.kind for one in drawn}


def test_a_landscape_shows_what_is_said_and_now_and_then_more() -> None:
    words = {"sun": r"sun\b", "sea": "sea|ocean|boat"}
    kinds = set()
    for seed in range(400):
        rng = np.random.default_rng(seed)
        shown = scene(rng, 144, 112, "all")
        if shown.kind != "landscape":
            continue
        said, known = caption(shown, rng), attributes(shown)
        for element in ELEMENTS:
            named = re.search(rf"\b({words.get(element, element)})", said) is not None
            assert named == (element in shown.elements and element not in shown.unsaid), (said, shown)
            assert known[f"has_{element}"] == (-1 if element in shown.unsaid else int(named))
        kinds.add("all" if not shown.unsaid else "none" if shown.unsaid == shown.elements else "some")
    assert kinds == {"all", "some", "none"}
