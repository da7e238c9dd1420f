"""What a picture is made of, before it is HTML or a PNG; knows no kind of explanation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from jackfield_alibi._explain._explanation import Explanation

#: Most rows of a request that are drawn one by one.
MOST_ROWS = 5
#: Most features of one plot or table; the rest are summed up, or left out and counted.
MOST_FEATURES = 12
#: Most classes of one plot.
MOST_CLASSES = 6
#: Longest name on a plot, in characters; a table has the whole one.
LONGEST_NAME = 34

MINUS = "\N{MINUS SIGN}"
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclasses.dataclass(frozen=True, slots=True)
class Plot:
    """One drawing over the width of the page."""

    #: Paints an empty figure of matplotlib's, which has the page's width.
    paint: Callable[[Any], None]
    #: Inches; the width is `_canvas.WIDTH`.
    height: float
    #: For those who can't see it.
    says: str


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Cells of text under headings; those of `marked` rows stand out."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: frozenset[int] = frozenset()
    #: The numbers behind a plot: folded up in HTML, left out of a PNG.
    is_detail: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Words:
    """A text of which some pieces are highlighted."""

    #: Pieces in order, blanks among them, and whether each is highlighted.
    pieces: Sequence[tuple[str, bool]]


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """A sentence."""

    text: str


Block: TypeAlias = Plot | Table | Words | Note


@dataclasses.dataclass(frozen=True, slots=True)
class Section:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]


@dataclasses.dataclass(frozen=True, slots=True)
class Page:
    """A whole picture."""

    title: str
    #: Names and values below the title.
    facts: list[tuple[str, str]]
    sections: Sequence[Section]


@dataclasses.dataclass(frozen=True, slots=True)
class Names:
    """Names that the explanation may lack."""

    features: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    categories: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)

    def feature(self, place: int) -> str:
        """Name a column."""
        return self.features[place] if place < len(self.features) else f"feature {place}"

    def target(self, place: int, of: int) -> str:
        """Name a class or output; the only one without a name is just the output."""
        if place < len(self.targets):
            return self.targets[place]
        return "output" if of == 1 else f"class {place}"

    def value(self, place: int, value: object) -> str:
        """Spell the value of a feature: a category by its name."""
        known = self.categories.get(place, ())
        if known and isinstance(value, int | float | np.number):
            number = float(value)
            if number.is_integer() and 0 <= number < len(known):
                return str(known[int(number)])
        return spell(value)


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """What of an explanation a picture shows."""

    names: Names = Names()
    #: Places of classes; None: the predicted one, and more where there is room.
    classes: tuple[int, ...] | None = None
    #: One image, which can't be folded up: only what matters most.
    is_brief: bool = False
    #: The rows that were explained, where the explanation may lack them.
    instances: NDArray[Any] | Sequence[str] | None = None

    def instance(self, row: int) -> NDArray[Any] | None:
        """Give a row that was explained, if it is known."""
        if self.instances is None or row >= len(self.instances):
            return None
        return np.asarray(self.instances[row])

    def with_names(
        self,
        features: object = None,
        targets: object = None,
        categories: object = None,
    ) -> Names:
        """Give the names, with those of the explanation where it has some."""
        return Names(
            _texts(features) or self.names.features,
            _texts(targets) or self.names.targets,
            _categories(categories) or self.names.categories,
        )

    def pick(self, count: int, first: int = 0, most: int = MOST_CLASSES) -> tuple[int, ...]:
        """Choose classes among `count`: those asked for, or `first` and those after it."""
        if self.classes is not None:
            asked = tuple(dict.fromkeys(each for each in self.classes if 0 <= each < count))
            if asked:
                return asked[:most]
        order = sorted(range(count), key=lambda place: place != first)
        return tuple(order[:most])


def parts_of(explanation: Explanation) -> tuple[list[tuple[str, Explanation]], list[Block]]:
    """Give the parts that are drawn, each with its heading, and a note of those that are not."""
    parts = explanation.rows
    shown = list(parts[:MOST_ROWS])
    titles = [f"row {index}" if len(parts) > 1 else "" for index in range(len(shown))]
    return list(zip(titles, shown, strict=True)), left_out(len(shown), len(parts), "rows")


def left_out(shown: int, there: int, what: str) -> list[Block]:
    """Say that not all is drawn; nothing where it is."""
    if shown >= there:
        return []
    verb = "is" if there - shown == 1 else "are"
    return [Note(f"{there - shown:,} of {there:,} {what} {verb} not drawn")]


# ---- text ----


def spell(value: object) -> str:
    """Write a value as people read it: numbers with four significant digits."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, int):
        return (f"{value:,}" if abs(value) >= 10_000 else str(value)).replace("-", MINUS)
    if isinstance(value, float):
        return _spell_float(value)
    if isinstance(value, np.ndarray | list | tuple):
        cells = [spell(each) for each in list(value)[:8]]
        return f"[{', '.join(cells)}{', ' + ELLIPSIS if len(value) > 8 else ''}]"
    return str(value)


def _spell_float(value: float) -> str:
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else f"{MINUS}infinite"
    size = abs(value)
    if size >= 1e6 or 0 < size < 1e-4:
        text = f"{value:.3g}"
    elif size >= 1000:
        text = f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"
    else:
        text = f"{value:.4g}"
    return text.replace("-", MINUS)


def signed(value: float) -> str:
    """Write a number with its sign: three significant digits."""
    if not math.isfinite(value):
        return spell(value)
    if value == 0:
        return "0"
    text = f"{abs(value):.3g}" if abs(value) >= 1e-4 else f"{abs(value):.1e}"
    return f"{'+' if value > 0 else MINUS}{text}"


def percent(value: object) -> str:
    """Write a share."""
    number = scalar(value)
    return "unknown" if number is None else f"{100 * number:.1f} %"


def short(text: str, most: int = LONGEST_NAME) -> str:
    """Cut a text in its middle: names often differ at both ends."""
    text = " ".join(str(text).split())
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[: most - 1 - half]}{ELLIPSIS}{text[-half:]}"


# ---- what an explanation holds ----


def scalar(value: object) -> float | None:
    """Read a number that Alibi may have as one, or as an array of one."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf":
        return None
    number = float(array.reshape(-1)[0])
    return None if math.isnan(number) else number


def numbers(value: object) -> NDArray[np.float64]:
    """Read an array of numbers; what is none is NaN."""
    array = np.asarray(value)
    if array.dtype.kind in "biuf":
        return array.astype(np.float64)
    flat = [_number(each) for each in array.reshape(-1).tolist()]
    return np.array(flat, np.float64).reshape(array.shape)


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # what is no number raises
    except (TypeError, ValueError):
        return math.nan


def _texts(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(each) for each in np.asarray(value, dtype=object).reshape(-1).tolist())


def _categories(value: object) -> dict[int, Sequence[str]]:
    """Read categories: Alibi has them by place, its JSON by the place's digits."""
    if not isinstance(value, Mapping):
        return {}
    return {
        int(place): _texts(known)
        for place, known in value.items()
        if str(place).lstrip("-").isdigit()
    }
