"""How ratings are laid out: what each tool and data set writes, a small function each.

A layout says which tables it recognises and yields their ratings. Comparisons and rankings become
win rates: 1 for the preferred picture, 0 for the other one, 0.5 each for a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tgo.pipeline.errors import InputError
from tgo.pipeline.sources.argilla import is_argilla, read_argilla
from tgo.pipeline.sources.image_table import NAMES, ImageTable
from tgo.pipeline.sources.label_studio import read_label_studio
from tgo.pipeline.sources.pictures import Location, Unusable
from tgo.pipeline.sources.rating_rows import PAIRS, Rating, RatingRows, compared

WIN_RATE = "win rate"
KTO = {"exclusive_win": 1.0, "exclusive_lose": 0.0, "intersections": 0.5}
"""Values of Diffusion-KTO's column `split` (in its description: `label`)."""
_PICKAPIC = {"image_0_uid", "image_1_uid", "label_0", "label_1", "caption"}
_HPDV3 = {"prompt", "path1", "path2"}
_PREFERRED = ("preferred", "preference", "winner", "choice", "selected", "label", "best")
_CHOSEN = (
    ("chosen", "rejected"),
    ("chosen_image", "rejected_image"),
    ("image_chosen", "image_rejected"),
    ("win", "lose"),
    ("winner_image", "loser_image"),
    ("positive", "negative"),
)
_LISTS = ("image_path", "images", "image_paths", "file_names")
_RANKS = ("rank", "ranks", "ranking", "human_preference")


@dataclass(frozen=True)
class Layout:
    """One way of writing ratings down."""

    name: str
    description: str
    """What was recognised, in words."""
    matches: Callable[[ImageTable], bool]
    read: Callable[[RatingRows], tuple[Iterator[Rating], str]]
    """The ratings of a table, and the unit of their mean."""


def detect(table: ImageTable) -> Layout:
    """The layout that a source asks for by name, else the first that matches its columns.

    Args:
        table: the rows of the source.

    Returns:
        What reads the ratings.

    Raises:
        InputError: a name that no layout has.
    """
    asked = table.source.format
    if asked == "folders":
        raise InputError(
            f"{table.name}: has no two subfolders named good and bad, or as --labels says; name "
            "them so, or leave out --format"
        )
    if asked is None:
        return next(layout for layout in LAYOUTS if layout.matches(table))
    for layout in LAYOUTS:
        if layout.name == asked:
            return layout
    raise InputError(f"--format {asked}: write one of {', '.join(each.name for each in LAYOUTS)}")


def read_table(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """A row a rating (or several in one cell), in the columns asked for or by usual names."""
    columns = rows.columns()
    views = rows.asked("views")
    if views is not None and views not in rows.table.columns:
        raise rows.table.no_column("views", views)
    unit = columns["rating"] if views is None else f"{columns['rating']} per {views}"
    return rows.rated(columns), unit


def read_pickapic(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Pick-a-Pic v1 and v2: two pictures a row, with labels 1, 0 or 0.5 each."""
    rows.require(sorted(_PICKAPIC))
    embedded = [name for name in ("jpg_0", "jpg_1") if name in rows.table.picture_columns]
    if embedded:
        rows.table.use_pictures(embedded)

    def ratings() -> Iterator[Rating]:
        for number, values in rows.records():
            sides = [rows.value(number, values, f"label_{side}") for side in (0, 1)]
            if values.get("has_label") in (False, 0) or None in sides:
                rows.leave_out("comparisons without a preference", number)
                continue
            prompt = rows.text(number, values, "caption")
            both = []
            for side, value in enumerate(sides):
                uid = str(values[f"image_{side}_uid"])
                if embedded:
                    location = rows.table.locate(number, values, f"jpg_{side}")
                else:
                    location = rows.table.locate_name(f"{uid}.jpg")
                    if f"image_{side}_url" in values and not _is_there(location):
                        location = Unusable(
                            f"is only an address here (image_{side}_url); download it as {uid}.jpg "
                            "into the folder of --images"
                        )
                if prompt is not None and value is not None:
                    both.append(Rating(uid, prompt, value, location, **rows.about(values)))
            yield from compared(both)

    return ratings(), WIN_RATE


def read_diffusion_kto(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Diffusion-KTO: `file_name, caption, split`, or as it describes itself."""
    columns = rows.table.columns
    image = "file_name" if "file_name" in columns else "file_path"
    rating = "split" if "split" in columns else "label"
    rows.require([image, "caption", rating])

    def ratings() -> Iterator[Rating]:
        for number, values in rows.records():
            prompt = rows.text(number, values, "caption")
            word = values.get(rating)
            if not isinstance(word, str) or word not in KTO:
                raise InputError(
                    f"{rows.table.where(number)}: {rating} is {word!r}; write one of "
                    f"{', '.join(KTO)}"
                )
            if prompt is not None:
                yield rows.rating(number, values, image, prompt, KTO[word])

    return ratings(), "won (1), lost (0) or both (0.5)"


def read_hpdv3(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """HPDv3: `path1` was preferred to `path2`."""
    rows.require(sorted(_HPDV3))
    return _chosen(rows, "path1", "path2"), WIN_RATE


def read_chosen(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Pairs in two columns, such as `chosen` and `rejected`."""
    columns = {*rows.table.columns, *rows.table.picture_columns}
    found = [pair for pair in _CHOSEN if columns >= set(pair)]
    if not found:
        raise _lacks(rows, "two columns such as chosen and rejected")
    chosen, rejected = found[0]
    return _chosen(rows, chosen, rejected), WIN_RATE


def _chosen(rows: RatingRows, chosen: str, rejected: str) -> Iterator[Rating]:
    rows.table.use_pictures([chosen, rejected])
    prompt_column = rows.prompt_column()
    for number, values in rows.records():
        prompt = rows.text(number, values, prompt_column)
        if prompt is not None:
            yield from rows.compared(number, values, (chosen, rejected), prompt, 1.0)


def read_pairs(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Pairs with a column that says which one was preferred: a, b, left, right, tie, a name."""
    columns = {*rows.table.columns, *rows.table.picture_columns}
    pairs = [pair for pair in PAIRS if columns >= set(pair)]
    if not pairs:
        raise _lacks(rows, "two columns of pictures such as image_a and image_b")
    pair = pairs[0]
    preferred = rows.table.column("rating", _PREFERRED)
    if preferred is None:
        raise rows.table.no_column("rating")
    prompt_column = rows.prompt_column()
    rows.table.use_pictures(pair)

    def ratings() -> Iterator[Rating]:
        for number, values in rows.records():
            prompt = rows.text(number, values, prompt_column)
            answer = values.get(preferred)
            if answer is None or str(answer).strip() == "":
                rows.leave_out("comparisons without a preference", number)
            elif prompt is not None:
                first = rows.preference(number, answer, pair, values)
                yield from rows.compared(number, values, pair, prompt, first)

    return ratings(), WIN_RATE


def read_rankings(rows: RatingRows) -> tuple[Iterator[Rating], str]:
    """Several pictures a row with their ranks (1 is best), or HPDv2's preferences (1 is chosen)."""
    columns = rows.table.columns
    images = next((name for name in _LISTS if name in columns), None)
    ranks = rows.table.column("rating", _RANKS)
    if images is None or ranks is None:
        raise _lacks(rows, "lists of pictures and of their ranks, such as images and rank")
    prompt_column = rows.prompt_column()

    def ratings() -> Iterator[Rating]:
        for number, values in rows.records(lists=[images, ranks]):
            prompt = rows.text(number, values, prompt_column)
            names, places = values.get(images), values.get(ranks)
            if not isinstance(names, list) or not isinstance(places, list):
                raise InputError(
                    f"{rows.table.where(number)}: needs lists under {images!r} and {ranks!r}; "
                    "write the table as .json, .jsonl or .parquet"
                )
            if len(names) != len(places) or len(names) < 2:
                raise InputError(
                    f"{rows.table.where(number)}: {len(names)} pictures with {len(places)} ranks; "
                    "write one rank a picture, of two pictures or more"
                )
            if not all(isinstance(name, str) and name.strip() for name in names):
                raise InputError(
                    f"{rows.table.where(number)}: {images} names no picture by {names!r}; write "
                    "file names"
                )
            numbers = [rows.value_of(number, ranks, place) for place in places]
            scores = numbers if ranks == "human_preference" else win_rates(numbers)
            if prompt is None:
                continue
            ranked = [
                Rating(name, prompt, score, rows.table.locate_name(name), **rows.about(values))
                for name, score in zip(names, scores, strict=True)
            ]
            yield from compared(ranked) if len(ranked) == 2 else ranked

    return ratings(), WIN_RATE


def _lacks(rows: RatingRows, what: str) -> InputError:
    there = ", ".join([*rows.table.columns, *rows.table.picture_columns])
    return InputError(f"{rows.table.name}: lacks {what}, and has {there}; leave out --format")


def win_rates(ranks: list[float]) -> list[float]:
    """Share of the other pictures that each one beats, ties counting half; rank 1 is best."""
    others = len(ranks) - 1
    return [
        (sum(rank < other for other in ranks) + 0.5 * (ranks.count(rank) - 1)) / others
        for rank in ranks
    ]


def _is_there(location: Location) -> bool:
    return isinstance(location, Path) and location.exists()


def _has(*columns: str) -> Callable[[ImageTable], bool]:
    return lambda table: {*table.columns, *table.picture_columns} >= set(columns)


def _is_kto(table: ImageTable) -> bool:
    columns = set(table.columns)
    described = {"caption", "label"} <= columns and Path(table.name).name.endswith(
        "_processed_v3.csv"
    )
    return described or {"file_name", "caption", "split"} <= columns


def _is_pairs(table: ImageTable) -> bool:
    columns = {*table.columns, *table.picture_columns}
    asked = table.source.columns.get("rating")
    named = asked in columns if asked else any(name in columns for name in _PREFERRED)
    single = any(name.lower() in NAMES["image"] for name in columns)  # beside it a pair is no pair
    return (named or not single) and any(columns >= set(pair) for pair in PAIRS)


def _is_chosen(table: ImageTable) -> bool:
    columns = {*table.columns, *table.picture_columns}
    return any(columns >= set(pair) for pair in _CHOSEN)


def _is_ranking(table: ImageTable) -> bool:
    columns = set(table.columns)
    asked = table.source.columns.get("rating")
    ranked = asked in _RANKS if asked else bool(columns & set(_RANKS))
    rated = {"image", "file_name", "overall_rating"}  # of ImageRewardDB, beside a rank of its own
    return ranked and bool(columns & set(_LISTS)) and not columns & rated


LAYOUTS = (
    Layout("pickapic", "Pick-a-Pic's comparisons", _has(*_PICKAPIC), read_pickapic),
    Layout("diffusion-kto", "Diffusion-KTO's wins and losses", _is_kto, read_diffusion_kto),
    Layout("label-studio", "Label Studio's tasks", _has("data", "annotations"), read_label_studio),
    Layout("hpdv3", "HPDv3's pairs", _has(*_HPDV3), read_hpdv3),
    Layout("rankings", "rankings of several pictures (HPDv2)", _is_ranking, read_rankings),
    Layout("chosen", "pairs of a chosen and a rejected picture", _is_chosen, read_chosen),
    Layout("pairs", "pairs with a preference", _is_pairs, read_pairs),
    Layout("argilla", "Argilla's records", is_argilla, read_argilla),
    Layout("table", "a rating a row", lambda table: True, read_table),
)
"""In the order in which they are looked for; the last one takes everything else."""
