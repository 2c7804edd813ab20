"""Style files, look-up and the two texts that come out of them."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest

from fooocus.errors import RequestError
from fooocus.prompt.styles import Style, Styles, StyleUse, apply_styles, load_styles

INK = Style("ink-drawing", "ink drawing of {prompt}, loose line", "photo")
GRAIN = Style("grain", "film grain", "")
CLEAN = Style("clean", "", "blur, noise")
ROOT = Path(__file__).resolve().parents[2]
SHIPPED = load_styles(ROOT / "styles")
NAMES = (ROOT / "tests" / "data" / "style_names.txt").read_text(encoding="utf-8").splitlines()
SOME = Styles({style.name: style for style in (INK, GRAIN, CLEAN)})


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_one_style_is_the_first_fooocus_way() -> None:
    assert apply_styles("a fox", "text", [INK]) == ("ink drawing of a fox, loose line", "photo, text")


def test_no_style_leaves_both_texts_exactly_as_given() -> None:
    assert apply_styles("  a  fox ,\n", " , ", []) == ("  a  fox ,\n", " , ")


def test_the_end_of_a_sentence_does_not_stand_before_a_template() -> None:
    assert apply_styles("a fox. ,", "", [INK])[0] == "ink drawing of a fox, loose line"
    assert apply_styles("a fox.", "", [GRAIN])[0] == "a fox, film grain"
    assert apply_styles("a fox. ,", "", [CLEAN, StyleUse(INK, 0.0)])[0] == "a fox. ,"


def test_empty_parts_are_left_out() -> None:
    assert apply_styles("a fox", "", [GRAIN]) == ("a fox, film grain", "")
    assert apply_styles("a fox", "", [INK])[1] == "photo"
    assert apply_styles("", "", [GRAIN]) == ("film grain", "")


def test_several_styles_nest_from_the_first_outwards() -> None:
    watercolor = Style("w", "watercolor of {prompt}", "oil")
    positive, negative = apply_styles("a fox", "text", [INK, watercolor, GRAIN, CLEAN])
    assert positive == "watercolor of ink drawing of a fox, loose line, film grain"
    assert negative == "photo, oil, blur, noise, text"


def test_a_prompt_may_hold_the_place_mark_itself() -> None:
    assert apply_styles("a {prompt} b", "", [INK, INK])[0] == (
        "ink drawing of ink drawing of a {prompt} b, loose line, loose line"
    )


def test_strength_weighs_the_template_but_not_the_prompt() -> None:
    assert apply_styles("a fox", "text", [StyleUse(INK, 0.5)]) == (
        "(ink drawing of:0.5) a fox, (loose line:0.5)",
        "(photo:0.5), text",
    )
    assert apply_styles("a fox", "text", [StyleUse(INK, 0.0)]) == ("a fox", "text")


@pytest.mark.parametrize("name", ["ink-drawing", "Ink Drawing", "INK_DRAWING", " ink  drawing "])
def test_names_are_found_however_they_are_spelled(name: str) -> None:
    assert SOME.find(name) is INK


def test_unknown_style_names_near_ones() -> None:
    with pytest.raises(RequestError, match=r"no style 'ink-drawign'.*ink-drawing") as caught:
        SOME.find("ink-drawign")
    assert caught.value.field == "styles"


def test_strength_in_a_reference() -> None:
    assert SOME.use("grain:0.25") == StyleUse(GRAIN, 0.25)
    assert SOME.use("grain:0.25").reference == "grain:0.25"
    assert SOME.use("Grain:1").reference == "grain"
    odd = Styles({"a:2": Style("a:2", "x")})
    assert odd.use("a:2") == StyleUse(odd.by_name["a:2"], 1.0)
    for wrong in ("grain:9", "grain:-1", "grain:nan", "grain:1e9", "grain:"):
        with pytest.raises(RequestError):
            SOME.use(wrong)


def test_random_style_depends_on_the_seed_alone() -> None:
    drawn = [SOME.choose(("random-style", "none", "Random Style"), seed) for seed in range(40)]
    assert drawn == [SOME.choose(("random-style", "random-style"), seed) for seed in range(40)]
    assert {use.style.name for uses in drawn for use in uses} == set(SOME.names)
    with pytest.raises(RequestError):
        Styles().choose(("random-style",), 1)


def test_a_persons_file_wins_over_ours_and_bad_ones_are_reported(tmp_path: Path) -> None:
    write(tmp_path, "sai.json", [{"name": "sai-anime", "prompt": "ours {prompt}"}])
    write(tmp_path, "a_mine.json", "\ufeff" + json.dumps([{"name": "sai-anime", "prompt": "mine {prompt}"}]))
    write(tmp_path, "broken.json", "[{")
    write(tmp_path, "deep.json", "[" * 100_000)
    write(tmp_path, "object.json", {"name": "x"})
    write(tmp_path, "mixed.json", [7, {"prompt": "x"}, {"name": "n", "prompt": 3}, {"name": "good", "prompt": "g"}])
    write(tmp_path, "word.json", [{"name": "None", "prompt": "{prompt}"}, {"name": "Random Style", "prompt": "x"}])
    styles = load_styles(tmp_path)
    assert styles.find("sai-anime") == Style("sai-anime", "mine {prompt}", "", "a_mine.json")
    assert styles.names == ("sai-anime", "good")
    reports = "\n".join(styles.problems)
    assert len(styles.problems) == 7
    for name in ("broken.json", "deep.json", "object.json", "Style 1 of mixed.json", "Style 3 of mixed.json"):
        assert name in reports


def test_a_missing_folder_holds_no_styles(tmp_path: Path) -> None:
    assert load_styles(tmp_path / "nowhere") == Styles()


def test_every_style_of_the_first_fooocus_is_there() -> None:
    assert sorted(SHIPPED.names) == sorted(NAMES)
    assert SHIPPED.problems == ()
    for name in NAMES:
        family = name.split("-")[0]
        assert SHIPPED.find(name).file == ("default.json" if family == "cinematic" else f"{family}.json")


@pytest.mark.parametrize("style", SHIPPED.by_name.values(), ids=lambda style: style.name)
def test_templates_are_well_formed(style: Style) -> None:
    assert style.prompt.count("{prompt}") == 1
    assert 15 <= len(style.prompt.replace("{prompt}", "").split()) <= 35
    # A text encoder hears "no color" as "color": what must not be there belongs into the negative text.
    assert not re.search(r"\b(no|without|nothing)\b", style.prompt)
    assert 6 <= len(style.negative.split()) <= 25
    for text in (style.prompt, style.negative):
        # Brackets, colons and backslashes mean something in the weight grammar.
        assert not re.search(r"[()\[\]:\\<>|]|  |,,|, ?$|^,|__|--", text)


def test_templates_differ() -> None:
    words = {style.name: set(re.findall(r"\w{4,}", style.prompt)) - {"prompt"} for style in SHIPPED.by_name.values()}
    for one, two in itertools.combinations(words, 2):
        assert len(words[one] & words[two]) <= len(words[one] | words[two]) * 0.25, (one, two)
    assert len({style.negative for style in SHIPPED.by_name.values()}) == len(NAMES)
