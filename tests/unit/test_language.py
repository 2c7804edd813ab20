"""The prompt language: flags, LoRA tags, word lists, arrays, and the check while typing."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fooocus.errors import RequestError
from fooocus.prompt.check import MAX_PROBLEMS, Names, check
from fooocus.prompt.language import combinations, take_directions
from fooocus.prompt.plan import again, number_of_pictures, plan, with_seed
from fooocus.prompt.sizes import SDXL_SIZES, nearest_size, size_label, sizes_like
from fooocus.prompt.styles import Style, Styles
from fooocus.prompt.wildcards import WordLists, load_word_lists
from fooocus.request import MAX_SEED, LoraUse, Recipe, Request, Size

ROOT = Path(__file__).resolve().parents[2]
STYLES = Styles({"grain": Style("grain", "film grain"), "sai-comic book": Style("sai-comic book", "comic of {prompt}")})
LISTS = WordLists(
    {
        "hue": ("red", "green", "blue"),
        "thing": ("__hue__ ball", "__hue__ box"),
        "deep/nest": ("a __thing__",),
        "tag": ("ink <lora:ink:0.3> --ar 1:2 --no __hue__",),
        "loop": ("x __loop2__",),
        "loop2": ("y __loop__",),
        "grow": ("__grow2__ __grow2__",),
        "grow2": tuple(f"{'__hue__ ' * 400}{n}" for n in range(2)),
    }
)


def test_near_names_are_joined_without_a_word_that_would_stay_english() -> None:
    with pytest.raises(RequestError) as caught:
        LISTS.find("grow3")
    assert caught.value.remedy == "Did you mean __grow__, __grow2__?"
    (problem,) = check("<lora:inks:0.5>", Names(loras=("ink.safetensors", "pink.safetensors")))
    assert problem.sentence.endswith("Did you mean ink.safetensors, pink.safetensors?")
    for file in (ROOT / "fooocus").rglob("*.py"):
        assert file.name == "cli.py" or "' or '.join" not in file.read_text(encoding="utf-8"), file


def recipes(prompt: str, **asked: Any) -> tuple[Recipe, ...]:
    asked = {"seed": 1, "styles": (), "base": "b", **asked}
    found = plan(Request(prompt=prompt, **asked), STYLES, LISTS)
    for recipe in found:
        assert plan(recipe.to_request(), STYLES) == (recipe,), "the resolved prompt means itself, without any list"
        assert plan(again(recipe, STYLES), STYLES) == (recipe,)
    return found


def texts(prompt: str, **asked: Any) -> list[str]:
    return [recipe.positive_text for recipe in recipes(prompt, **asked)]


# --- flags


@pytest.mark.parametrize(
    ("prompt", "text", "size"),
    [
        ("a fox --ar 16:9", "a fox", Size(1344, 768)),
        ("a fox —ar 16:9", "a fox", Size(1344, 768)),
        ("--aspect 1:1 a fox", "a fox", Size(1024, 1024)),
        ("a fox --ar 2/3, snow", "a fox, snow", Size(832, 1216)),
        ("a fox --AR 1.85:1", "a fox", Size(1344, 704)),
        ("a fox --ar 16:9.", "a fox.", Size(1344, 768)),
        ("a fox --seed 7. Snow!", "a fox. Snow!", Size(1152, 896)),
        ("a fox --ar 1 : 9 snow", "a fox snow", Size(704, 1408)),
        ("a fox --ar 9:1\nsnow", "a fox\nsnow", Size(1728, 576)),
        ("mother--ar 16:9", "mother--ar 16:9", Size(1152, 896)),
        ("a -- b --5 c", "a -- b --5 c", Size(1152, 896)),
    ],
)
def test_aspect_ratio(prompt: str, text: str, size: Size) -> None:
    (recipe,) = recipes(prompt)
    assert (recipe.positive_text, recipe.size) == (text, size)


def test_all_flags_together() -> None:
    prompt = (
        "a fox --no cars, people --seed 7 --repeat 2 --style Sai Comic Book, grain:0.5 --quality --v 6 --stylize 250"
    )
    one, two = recipes(prompt, negative="text", steps=5)
    assert (one.prompt, one.negative) == ("a fox", "text, cars, people")
    assert (one.seed, two.seed) == (7, 8)
    assert one.styles == ("sai-comic book", "grain:0.5")
    assert one.positive_text == "comic of a fox, (film grain:0.5)"
    assert one.steps == 60


def test_quality_and_raw() -> None:
    assert recipes("a --q 2")[0].steps == 60
    assert recipes("a --q .5", performance="quality")[0].steps == 30
    assert recipes("a --style raw", styles=("grain",))[0].styles == ()


@pytest.mark.parametrize(
    ("prompt", "field"),
    [
        ("a --ar wide", "prompt"),
        ("a --ar 0:1", "prompt"),
        ("a --ar", "prompt"),
        ("a --seed x", "prompt"),
        (f"a --seed {MAX_SEED + 1}", "seed"),
        ("a --repeat 0", "count"),
        ("a --repeat 1001", "count"),
        ("a --no", "prompt"),
        ("a --no --seed 7", "prompt"),
        ("a --style nope", "styles"),
        ("a <lora:x:much>", "prompt"),
        ("a <lora:x:nan>", "prompt"),
        ("a <lora:x:1e9>", "prompt"),
        ("a <lora:x:1:2>", "prompt"),
        ("a <lora::1>", "prompt"),
        ("a <lora:../x:1>", "prompt"),
        ("a <lora:/etc/x:1>", "prompt"),
        ("a <lora:~/x:1>", "prompt"),
        ("a __nope__", "prompt"),
        ("a __loop__", "prompt"),
        ("a --repeat all " + "[[a,b]] " * 10, "count"),
        ("a --repeat all " + "[[a,b]] " * 20_000, "count"),
    ],
)
def test_what_is_malformed_is_refused_with_its_field(prompt: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        recipes(prompt)
    assert caught.value.field == field
    assert caught.value.remedy


def test_the_seed_of_the_prompt_is_used_before_one_is_drawn() -> None:
    assert with_seed(Request(prompt="a --seed 7"), lambda: 5).seed == 7
    assert with_seed(Request(prompt="a"), lambda: 5).seed == 5


# --- LoRA tags


def test_lora_tags_anywhere() -> None:
    (recipe,) = recipes(
        "a <lora:one:0.5>, fox\nsnow<LORA:sub/two:-.75> <lora:three>\n<lora:One.safetensors:2>", negative="x"
    )
    assert recipe.positive_text == "a, fox\nsnow\n"
    assert recipe.loras == (LoraUse("one", 0.5), LoraUse("sub/two", -0.75), LoraUse("three", 1.0))


def test_a_chosen_lora_keeps_its_weight() -> None:
    chosen = (LoraUse("sub/One.safetensors", 0.1),)
    (recipe,) = recipes("a <lora:one:0.5> <lora:two:1>", loras=chosen)
    assert recipe.loras == (*chosen, LoraUse("two", 1.0))


def test_a_tag_counts_more_than_what_goes_with_the_base() -> None:
    request = Request(prompt="a <lora:sd_xl_offset_example-lora_1.0:0.1>", seed=1, styles=())
    assert plan(request, STYLES)[0].loras == (LoraUse("sd_xl_offset_example-lora_1.0", 0.1),)


# --- word lists


def test_word_lists_depend_on_the_seed_alone() -> None:
    found = texts("__deep/nest__, __nest__", count=200)
    assert found == texts("__deep/nest__, __nest__", count=200)
    assert len(set(found)) == 36
    assert texts("__thing__", seed=5, count=1) == [texts("__thing__", seed=1, count=5)[4]]


def test_word_lists_in_order() -> None:
    assert texts("__hue__ --in-order", count=4) == ["red", "green", "blue", "red"]


def test_a_list_may_hold_directions() -> None:
    (recipe,) = recipes("fox, __tag__", negative="text, __HUE__")
    assert recipe.positive_text == "fox, ink"
    assert recipe.size == Size(704, 1408)
    assert recipe.loras == (LoraUse("ink", 0.3),)
    start, first, second = recipe.negative.split(", ")
    assert start == "text" and {first, second} <= {"red", "green", "blue"}


def test_lists_that_grow_without_end_are_refused() -> None:
    with pytest.raises(RequestError):
        texts("__grow__ " * 100)


def test_unknown_list_names_near_ones() -> None:
    with pytest.raises(RequestError, match="__hue__"):
        texts("__hues__")


def test_lists_are_read_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("\ufeffone\r\n\r\n# note\r\n two words \r\n", encoding="utf-8")
    (folder / "sub" / "größe.txt").write_text("groß\n", encoding="utf-8")
    (folder / "empty.txt").write_text("\n# only\n", encoding="utf-8")
    (folder / "bad name.txt").write_text("x\n", encoding="utf-8")
    (folder / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "secret.txt").write_text("secret\n", encoding="utf-8")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    lists = load_word_lists(folder)
    assert lists.by_name == {"a": ("one", "two words"), "sub/größe": ("groß",)}
    assert len(lists.problems) == 4
    for escape in ("../secret", "sub/../a", "/etc/passwd"):
        (recipe,) = plan(Request(prompt=f"__{escape}__", seed=1, styles=(), base="b"), Styles(), lists)
        assert recipe.positive_text == f"__{escape}__", "this is no name of a list, so it is text"


def test_our_own_lists_are_whole() -> None:
    lists = load_word_lists(ROOT / "styles" / "wildcards")
    assert lists.problems == () and len(lists.names) >= 25
    for name in lists.names:
        for seed in range(60):
            (recipe,) = plan(Request(prompt=f"__{name}__", seed=seed, styles=(), base="b"), Styles(), lists)
            assert recipe.positive_text and "__" not in recipe.positive_text
    colour = {plan(Request(prompt="__colour__", seed=s, styles=()), Styles(), lists)[0].prompt for s in range(40)}
    assert colour <= set(lists.by_name["color"])


# --- arrays


def test_arrays_make_every_combination() -> None:
    found = texts("[[a, b]] x [[c,d,e]] --repeat all")
    assert found == ["a x c", "b x c", "a x d", "b x d", "a x e", "b x e"]
    assert number_of_pictures(Request(prompt="[[a, b]] x [[c,d,e]] --repeat all")) == 6
    assert number_of_pictures(Request(prompt="[[a, b]]", count=3)) == 3


def test_arrays_in_step() -> None:
    assert texts("[[a, b]] x [[c,d,e]] --repeat all --in-step") == ["a x c", "b x d", "a x e"]
    assert combinations("no array [[alone]]") == 1


def test_arrays_do_not_raise_the_count_unasked_and_may_hold_anything() -> None:
    assert texts("[[a, b]]") == ["a"]
    found = texts("[[ __hue__ , <lora:x:1>]] [[, late]]", count=4, seed=9)
    assert [text.split()[-1:] for text in found[1:]] == [[], ["late"], ["late"]]
    assert texts("[[alone]] [x] {y}") == ["[[alone]] [x] {y}"]


def test_an_array_may_hold_directions() -> None:
    assert [r.loras for r in recipes("x [[<lora:a:1>, <lora:b:1>]]", count=2)] == [
        (LoraUse("a", 1.0),),
        (LoraUse("b", 1.0),),
    ]
    assert [r.size for r in recipes("x [[--ar 16:9, --ar 1:1]]", count=2)] == [Size(1344, 768), Size(1024, 1024)]
    assert recipes("x --no [[cars, people]]", count=2)[1].negative == "people"


@pytest.mark.parametrize(
    ("prompt", "negative"),
    [("x [[--seed 5, --seed 6]]", ""), ("[[--repeat 2, a]]", ""), ("__seeded__", ""), ("x", "y --seed 5")],
)
def test_what_holds_for_all_pictures_stands_in_the_prompt_itself(prompt: str, negative: str) -> None:
    with pytest.raises(RequestError, match="holds for all pictures"):
        plan(Request(prompt=prompt, negative=negative, seed=1), STYLES, WordLists({"seeded": ("a --seed 7",)}))


def test_arrays_are_split_outside_of_round_brackets() -> None:
    assert texts("[[(a, b:1.2), c]] --repeat all") == ["(a, b:1.2)", "c"]
    assert texts("[[(a, b]] --repeat all") == ["(a", "b"]
    assert texts("[[(a, b)]]") == ["[[(a, b)]]"]


def test_a_random_style_is_drawn_apart_from_the_words() -> None:
    styles = Styles({name: Style(name, name) for name in "abcd"})
    lists = WordLists({"letter": tuple("abcd")})
    request = Request(prompt="__letter__", styles=("random-style",), seed=1, count=60)
    assert len({recipe.positive_text for recipe in plan(request, styles, lists)}) > 8


# --- all of it


WORDS = st.sampled_from(["fox,", "a", ",", "(", ")", "[[", "]]", "__", "\n", " ", "  ", "\ud83d", "🦊", ">", ":1>"])
FLAGS = st.sampled_from(
    ["--no", "--ar", "16:9", "--seed", "7", "--style grain", "--repeat", "--x", "—ar", "--in-order"]
)
NAMED = st.sampled_from(
    ["__hue__", "__thing__", "__tag__", "<lora:x:0.5>", "<lora:", "[[a, __tag__]]", "[[<lora:y:1>,b]]"]
)
PIECES = st.lists(WORDS | FLAGS | NAMED, max_size=14).map("".join)


@settings(max_examples=250, deadline=None)
@given(PIECES, PIECES, st.integers(0, MAX_SEED))
def test_any_prompt_plans_itself_again_or_is_refused(prompt: str, negative: str, seed: int) -> None:
    request = Request(prompt=prompt, negative=negative, seed=seed, styles=("grain",), count=2)
    try:
        found = plan(request, STYLES, LISTS)
    except RequestError:
        return
    for recipe in found:
        assert plan(recipe.to_request(), STYLES, LISTS) == (recipe,)


HOSTILE_NAMES = ["__a", "__a-", "_", "[[a,", "[[,,,,", "[[(,", "<lora:", "<lora", "embedding:"]
HOSTILE_WORDS = [" --no", " --ar 1", "(", ")", " ", "a ", "—"]


@pytest.mark.parametrize("piece", HOSTILE_NAMES + HOSTILE_WORDS)
def test_long_hostile_prompts_take_linear_time(piece: str) -> None:
    text = (piece * 200_000)[:200_000]
    start = time.process_time()
    check(text, Names())
    with contextlib.suppress(RequestError):
        plan(Request(prompt=text, negative=text, seed=1, styles=()), STYLES, LISTS)
    assert time.process_time() - start < 3


def test_a_changed_style_is_asked_for_by_its_words() -> None:
    (recipe,) = recipes("a fox", styles=("sai-comic book",))
    changed = Styles({"sai-comic book": Style("sai-comic book", "other {prompt}")})
    for styles in (changed, Styles()):
        request = again(recipe, styles)
        assert (request.prompt, request.styles) == ("comic of a fox", ())
        assert plan(request, styles)[0].positive_text == recipe.positive_text
    assert again(recipe, STYLES) == recipe.to_request()


# --- sizes


def test_sizes() -> None:
    assert len(set(SDXL_SIZES)) == 26
    assert all(not width % 64 and not height % 64 for width, height in SDXL_SIZES)
    for size in SDXL_SIZES:
        assert nearest_size(*size) == size
    for size in SDXL_SIZES:
        assert sizes_like(size) == SDXL_SIZES
    assert Size(288, 224) in sizes_like(Size(288, 224)) and Size(144, 112) in sizes_like(Size(128, 128))
    assert recipes("a --ar 16:9", size=Size(288, 224))[0].size == Size(336, 192)
    assert nearest_size(21, 9, (Size(512, 512), Size(768, 320))) == Size(768, 320)
    assert size_label(Size(1152, 896)) == "1152×896 (9:7)"


# --- check


NAMES = Names(
    STYLES,
    LISTS,
    loras=("sub/Ink.safetensors", "glow.safetensors"),
    embeddings=("bad hands.safetensors", "fix.safetensors"),
)


def test_a_good_prompt_has_no_problems() -> None:
    good = "a (fox:1.2) \\(x\\) <lora:ink:0.5> <lora:glow> __hue__ [[a, b]] embedding:fix --ar 3:2 --no cars"
    assert check(good, NAMES) == []


@pytest.mark.parametrize(
    ("text", "marked", "words"),
    [
        ("a (fox", "(", "never closed"),
        ("a fox) b", ")", "closes nothing"),
        ("a ((fox)", "(", "never closed"),
        ("[[a, b", "[[", "never closed"),
        ("a]] b", "]]", "close no array"),
        ("[[a]]", "[[a]]", "one item"),
        ("x __hues__ y", "__hues__", "__hue__"),
        ("<lora:glob:1>", "<lora:glob:1>", "glow"),
        ("<lora:ink:x>", "<lora:ink:x>", "no number"),
        ("<lora:ink:1><lora:sub/ink:2>", "<lora:sub/ink:2>", "named before"),
        ("<lora ink>", "<lora", "read as text"),
        ("embedding:fox, b", "embedding:fox", "fix"),
        ("a --foo b", "--foo", "not a flag"),
        ("a --v 6 b", "--v 6", "left out"),
        ("a --ar x", "--ar", "wants a shape"),
        ("a --style gran", "--style gran", "grain"),
        ("(a:1.2.3)", "1.2.3", "no number"),
        ("(a, (b:1):9)", "9", "spoils"),
        ("a --ar 1:1 --ar 2:1", "--ar 2:1", "said before"),
        ("[[a, --seed 5]]", "--seed 5", "holds for all pictures"),
        ("[[(a, b)]]", "[[(a, b)]]", "one item"),
    ],
)
def test_problems_are_marked(text: str, marked: str, words: str) -> None:
    (problem,) = check(text, NAMES)
    assert text[slice(*problem.span)].strip() == marked
    assert words in problem.sentence


def test_problems_are_few_and_in_order() -> None:
    problems = check(")" * 500, NAMES)
    assert len(problems) == MAX_PROBLEMS and problems == sorted(problems)


@settings(max_examples=200, deadline=None)
@given(PIECES)
def test_a_prompt_without_problems_is_planned(text: str) -> None:
    """The check is at least as strict as the plan, for what it can know before word lists are drawn."""
    problems = check(text, NAMES)
    try:
        take_directions(text)
    except RequestError:
        assert problems
