"""The library of pictures: what is found, what is searched, what outlives what."""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from fooocus.errors import RequestError, StorageError
from fooocus.images.library import thumbnails
from fooocus.images.library.bin import Bin
from fooocus.images.library.dimensions import dimensions
from fooocus.images.library.favourites import Favourites
from fooocus.images.library.fold import fold, terms
from fooocus.images.library.library import Library
from fooocus.images.library.places import Place, Seen, clock_ms, parse_place
from fooocus.images.library.search import Query
from fooocus.images.library.thumbnails import Thumbnails, key_of, small
from tests.pictures import Maker, recipe

MAKER = Maker()
DAY, OTHER = "2026-11-23", "2026-11-20"
NAMES = {
    "fox": "12-00-00-000_001_7.png",
    "café": "12-30-00-000_001_8.png",
    "猫": "13-00-00-000_001_9.png",
}


def no_bin(file: Path) -> None:
    raise OSError("there is none")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    MAKER.put(folder / DAY / NAMES["fox"], recipe(prompt="A red FOX in the snow", seed=7, styles=("watercolour",)))
    MAKER.put(
        folder / DAY / NAMES["café"], recipe(prompt="Café\nof Łódź at dusk", seed=812345, base="other.safetensors")
    )
    MAKER.put(folder / OTHER / NAMES["猫"], recipe(prompt="雪の中の猫、夕日", seed=9))
    return folder


@pytest.fixture
def begin(tmp_path: Path, outputs: Path) -> Iterator[Callable[[], Library]]:
    made: list[Library] = []

    def start(send: Callable[[Path], None] = no_bin) -> Library:
        made.append(Library(outputs, tmp_path / "data", send))
        return made[-1]

    yield start
    for library in made:
        library.close()


def found(library: Library, **query: object) -> list[str]:
    """Return the names that answer to a query, through days and pages as the page asks for them."""
    asked = Query(**query)  # type: ignore[arg-type]
    library.look(5, now=True)
    days = library.overview(asked).days
    names = [e.place.name for day, count, _ in days for e in library.page(asked, day, 0, count)]
    assert len(names) == sum(count for _, count, _ in days)
    return names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", ["café", "fox", "猫"]),
        ("fox", ["fox"]),
        ("SNOW red", ["fox"]),
        ("cafe dusk", ["café"]),
        ("CAFÉ lodz", ["café"]),
        ("ｆｏｘ", ["fox"]),
        ("猫", ["猫"]),
        ("夕日 雪", ["猫"]),
        ("fox dusk", []),
        ("812345", ["café"]),
        ("812", []),
        ("%", []),
        ("_ox", []),
        ("' OR 1=1 --", []),
    ],
)
def test_every_word_is_found_in_any_order_and_spelling(
    begin: Callable[[], Library], words: str, names: list[str]
) -> None:
    library = begin()
    assert found(library, words=words) == [NAMES[name] for name in names]
    assert found(library, words=words, model="sd_xl_base_1.0") == [NAMES[n] for n in names if n != "café"]


def test_models_styles_and_favourites_choose(begin: Callable[[], Library]) -> None:
    library = begin()
    place = Place(OTHER, NAMES["猫"])
    library.look(5, now=True)
    library.mark(place, on=True)
    assert found(library, favourite=True) == [NAMES["猫"]]
    assert found(library, favourite=True, words="fox") == []
    assert found(library, style="watercolour", words="snow") == [NAMES["fox"]]
    assert library.models(Query()) == [("sd_xl_base_1.0", 2), ("other", 1)]
    assert library.styles(Query()) == [("watercolour", 1)]
    # What is to be chosen from is counted among what all other filters leave.
    assert library.models(Query("fox", model="other")) == [("sd_xl_base_1.0", 1)]
    assert library.models(Query(favourite=True, style="watercolour")) == []
    assert library.models(Query(), OTHER) == [("sd_xl_base_1.0", 1)]
    assert library.styles(Query("fox snow", "sd_xl_base_1.0", "none")) == [("watercolour", 1)]
    assert library.styles(Query("dusk")) == []


def test_pages_of_a_day_follow_each_other(begin: Callable[[], Library], outputs: Path) -> None:
    for number in range(30):
        MAKER.put(outputs / OTHER / f"08-00-00-000_{number:03d}_1.png", None)
    library = begin()
    library.look(5, now=True)
    pages = [library.page(Query(), OTHER, skip, 7) for skip in range(0, 35, 7)]
    names = [entry.place.name for page in pages for entry in page]
    assert len(names) == len(set(names)) == 31
    assert names == sorted(names, reverse=True)


def test_what_comes_goes_and_changes_is_noticed_at_once(begin: Callable[[], Library], outputs: Path) -> None:
    library = begin()
    assert len(found(library)) == 3
    version = library.state().version
    new = MAKER.put(outputs / "2026-11-24" / "09-00-00-000_001_1.png", recipe(prompt="quite new"))
    assert found(library, words="new") == [new.name]
    assert library.state().version != version and library.state().unread == 0
    MAKER.put(new, recipe(prompt="changed since, and longer"))
    os.utime(new, ns=(1, time.time_ns() + 5_000_000_000))
    library._dates.clear()  # a change inside of a file is seen when all folders are listed, now and then
    assert found(library, words="since") == [new.name] and found(library, words="new") == []
    new.unlink()
    new.parent.rmdir()
    assert found(library, words="since") == []


def test_only_real_pictures_in_folders_of_days_count(
    begin: Callable[[], Library], outputs: Path, tmp_path: Path
) -> None:
    secret = MAKER.put(tmp_path / "elsewhere" / DAY / "secret.png", recipe(prompt="secret"))
    MAKER.put(outputs / "secret.png", recipe(prompt="secret"))
    MAKER.put(outputs / "grids" / "secret.png", recipe(prompt="secret"))
    MAKER.put(outputs / DAY / ".secret.png", recipe(prompt="secret"))
    (outputs / DAY / "link.png").symlink_to(secret)
    (outputs / "2026-01-01").symlink_to(secret.parent, target_is_directory=True)
    (outputs / DAY / "no.png").write_bytes(b"<html>secret</html>")
    library = begin()
    assert len(found(library)) == 3 and found(library, words="secret") == []
    for place in (Place(DAY, "link.png"), Place("2026-01-01", "secret.png"), Place(DAY, "../../elsewhere/secret.png")):
        assert library.find(place) is None
        assert library.delete([place])[1] == []
    assert secret.is_file()


def test_an_unplugged_folder_is_not_forgotten(begin: Callable[[], Library], outputs: Path) -> None:
    library = begin()
    assert len(found(library)) == 3
    away = outputs.rename(outputs.with_name("away"))
    assert len(found(library)) == 3 and library.state().missing
    away.rename(outputs)
    assert len(found(library)) == 3 and not library.state().missing


@pytest.mark.parametrize("damage", ["garbage", "other program", "torn", "while open"])
def test_a_damaged_index_is_made_anew_and_favourites_stay(
    begin: Callable[[], Library], tmp_path: Path, damage: str
) -> None:
    library = begin()
    library.look(5, now=True)
    library.mark(Place(DAY, NAMES["fox"]), on=True)
    file = tmp_path / "data" / "library.sqlite"
    if damage == "while open":
        library._index._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.write_bytes(b"\x55" * file.stat().st_size)
        for _ in range(3):
            try:
                library._index._reader.execute("PRAGMA shrink_memory")
                names = found(library, favourite=True)
                break
            except StorageError:
                continue
        assert names == [NAMES["fox"]]
        return
    library.close()
    if damage == "garbage":
        file.write_bytes(b"no database" * 1000)
    elif damage == "torn":
        with file.open("r+b") as open_file:
            open_file.seek(4096 * 2)
            open_file.write(b"\xff" * 4096 * 4)
    else:
        file.unlink()
        with closing(sqlite3.connect(file)) as db:
            db.execute("CREATE TABLE pictures (x)")
            db.commit()
    again = begin()
    assert len(found(again)) == 3 and found(again, favourite=True) == [NAMES["fox"]]


def test_favourites_survive_a_torn_line_and_old_marks_are_tidied(tmp_path: Path) -> None:
    file = tmp_path / "favourites.txt"
    one, two = Place(DAY, "one.png"), Place(DAY, "two.png")
    marks = Favourites(file)
    marks.mark(one, on=True)
    marks.mark(two, on=True)
    with file.open("a") as lines:
        lines.write(f"- {one}\n+ {one}\n" * 1500 + "- 2026-11-23/on")
    again = Favourites(file)
    assert again.all() == {one, two}
    again.mark(two, on=False)
    assert Favourites(file).all() == {one}
    assert len(file.read_text().splitlines()) < 10


def test_lines_of_another_kind_outlive_the_tidying_and_a_mark_without_its_line_end_counts(tmp_path: Path) -> None:
    file = tmp_path / "favourites.txt"
    one, two = Place(DAY, "one.png"), Place(DAY, "two.png")
    strange = b"# the best ones\n* 2026-11-23/one.png 5\n\xff\xfe\n"
    file.write_bytes(strange + f"- {one}\n+ {one}\n".encode() * 1500 + f"+ {two}".encode())
    assert Favourites(file).all() == {one, two}
    tidied = file.read_bytes()
    assert tidied.startswith(strange) and len(tidied.splitlines()) == 5
    assert Favourites(file).all() == {one, two}
    with file.open("ab") as lines:
        lines.write(b"# the end")
    Favourites(file).mark(two, on=False)
    assert b"# the end\n" in file.read_bytes() and Favourites(file).all() == {one}


def test_deleting_can_be_undone_and_then_ends_in_the_bin_under_its_own_path(
    begin: Callable[..., Library], outputs: Path
) -> None:
    sent: list[tuple[Path, bytes]] = []

    def send(file: Path) -> None:
        sent.append((file, file.read_bytes()))
        file.unlink()

    library = begin(send)
    library.look(5, now=True)
    place = Place(DAY, NAMES["fox"])
    file = outputs / DAY / place.name
    whole, beside = file.read_bytes(), file.with_suffix(".json")
    beside.write_text("{}")
    library.mark(place, on=True)
    token, taken = library.delete([place, Place(DAY, "never.png")])
    assert taken == [place] and not file.exists() and not beside.exists()
    assert found(library) == [NAMES["café"], NAMES["猫"]]
    assert library.undo(token) == [place]
    assert file.read_bytes() == whole and beside.exists() and not (outputs / ".deleted").exists()
    assert found(library, favourite=True) == [place.name]

    token, _ = library.delete([place])
    assert library._bin.due() == []
    for due in library._bin.due(everything=True):
        library._bin.empty(due)
    assert (file, whole) in sent and not (outputs / ".deleted").exists()
    with pytest.raises(RequestError, match="bin"):
        library.undo(token)


def test_without_a_bin_deleted_pictures_are_kept(outputs: Path, tmp_path: Path) -> None:
    bin = Bin(outputs, tmp_path / "data", no_bin)
    place = Place(DAY, NAMES["fox"])
    whole = (outputs / DAY / place.name).read_bytes()
    for _ in range(2):
        token, _ = bin.hold([place])
        bin.empty(token)
        MAKER.put(outputs / DAY / place.name, None)
    kept = sorted((tmp_path / "data" / "trash" / DAY).iterdir())
    assert len(kept) == 2 and whole in [file.read_bytes() for file in kept]


def test_a_deletion_of_an_earlier_run_is_finished(outputs: Path, tmp_path: Path) -> None:
    Bin(outputs, tmp_path / "data", no_bin).hold([Place(DAY, NAMES["fox"])])
    later = Bin(outputs, tmp_path / "data", no_bin)
    assert later.due() == [] and len(later.due(everything=True)) == 1
    (outputs / ".deleted" / "not-a-token").mkdir()
    assert len(later.due(everything=True)) == 1


def test_the_thread_reads_everything_makes_thumbnails_and_cleans_them(
    begin: Callable[[], Library], outputs: Path, tmp_path: Path
) -> None:
    for number in range(30):
        MAKER.put(outputs / OTHER / f"08-00-00-000_{number:03d}_1.png", None)
    left = tmp_path / "data" / "thumbnails" / "ab" / ("ab" * 16 + ".jpg")
    left.parent.mkdir(parents=True)
    left.touch()
    library = begin()
    library.begin()
    deadline = time.monotonic() + 20
    thumbnails = tmp_path / "data" / "thumbnails"
    while time.monotonic() < deadline and (left.exists() or len(list(thumbnails.glob("*/*.jpg"))) < 33):
        time.sleep(0.05)
    assert len(list(thumbnails.glob("*/*.jpg"))) == 33 and library.state().unread == 0
    place = Place(DAY, NAMES["fox"])
    entry = library.find(place)
    assert entry is not None
    made = library.thumbnails.path(place, entry.seen)
    with Image.open(made) as image:
        assert image.format == "JPEG" and image.size == (64, 48)
    (outputs / DAY / place.name).unlink()
    library.look(5, now=True)
    assert not made.exists()


def test_many_ask_while_pictures_come(begin: Callable[[], Library], outputs: Path) -> None:
    library = begin()
    faults: list[BaseException] = []

    def ask() -> None:
        try:
            for _ in range(20):
                library.overview(Query("fox"))
                library.mark(Place(DAY, NAMES["fox"]), on=True)
        except Exception as error:  # noqa: BLE001
            faults.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in range(20):
        MAKER.put(outputs / DAY / f"14-00-00-000_{number:03d}_1.png", recipe(prompt="a new one"))
        library.look(5, now=True)
    for thread in threads:
        thread.join()
    assert faults == [] and len(found(library, words="new one")) == 20


def test_thumbnails_keep_the_shape_and_refuse_what_is_too_large(tmp_path: Path) -> None:
    tall = tmp_path / "tall.webp"
    Image.new("RGBA", (600, 1200), (200, 0, 0, 0)).save(tall)
    made = tmp_path / "made.jpg"
    made.write_bytes(small(tall))
    with Image.open(made) as image:
        assert image.size == (160, 320) and min(image.convert("RGB").getpixel((5, 5))) > 250  # type: ignore[type-var]
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(MAKER.png(None)[:16] + (100_000).to_bytes(4, "big") * 2 + MAKER.png(None)[24:])
    with pytest.raises(ValueError, match="64 megapixels"):
        small(bomb)
    cut = tmp_path / "cut.png"
    cut.write_bytes(MAKER.png(None)[:-40])
    with pytest.raises((OSError, SyntaxError)):
        small(cut)


def test_only_what_is_no_picture_is_remembered_as_such(
    tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Thumbnails(outputs, tmp_path / "small")
    fox, write = Place(DAY, NAMES["fox"]), thumbnails._write

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(thumbnails, "_write", full)
    assert made.get(fox, Seen(1, 1)) is None and made.missing(fox, Seen(1, 1))
    monkeypatch.setattr(thumbnails, "_write", write)
    assert made.get(fox, Seen(1, 1)) == made.path(fox, Seen(1, 1)), "a disk is not full for ever"

    file = outputs / DAY / NAMES["fox"]
    whole = file.read_bytes()
    for number, data in enumerate((whole[:-40], b"no picture"), start=2):
        file.write_bytes(data)
        assert made.get(fox, Seen(number, 1)) is None and not made.missing(fox, Seen(number, 1))


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        ("png", {}),
        ("jpg", {}),
        ("jpg", {"progressive": True}),
        ("webp", {}),
        ("webp", {"lossless": True}),
        ("webp", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
    ],
)
def test_dimensions_are_read_from_the_head(tmp_path: Path, suffix: str, options: dict[str, object]) -> None:
    file = tmp_path / f"a.{suffix}"
    Image.linear_gradient("L").resize((321, 123)).convert("RGB").save(file, **options)
    assert dimensions(file) == (321, 123)
    whole = file.read_bytes()
    for length in range(40):
        file.write_bytes(whole[:length])
        dimensions(file)
    for noise in (b"\xff\xd8\xff" * 50, b"RIFF0000WEBPVP8X" + b"\xff" * 20, b""):
        file.write_bytes(noise)
        dimensions(file)


def test_the_clock_is_read_from_names() -> None:
    assert clock_ms("12-30-45-678_001_7.png", 0) == ((12 * 60 + 30) * 60 + 45) * 1000 + 678
    assert clock_ms("2024-01-31_23-59-59_1234.png", 0) == (24 * 3600 - 1) * 1000
    assert 0 <= clock_ms("anything.png", 2**62) < 24 * 3600 * 1000


def test_folding_and_places() -> None:
    assert fold("Straße ÀÉÎ Œuvre ﬁ") == "strasse aei oeuvre fi"
    assert terms("  Fox  fox\tSNOW ") == ("fox", "snow")
    assert len(terms(" ".join(map(str, range(1000))))) == 16
    assert parse_place("2026-11-23/a.png") == Place(DAY, "a.png")
    for crooked in ("a.png", "2026-11-23/../a.png", "2026-11-23/.a.png", "2026-11-23/a.html", "/2026-11-23/a.png", ""):
        assert parse_place(crooked) is None
    assert key_of(Place(DAY, "a.png"), Seen(1, 2)) != key_of(Place(DAY, "a.png"), Seen(1, 3))
