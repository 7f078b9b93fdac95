"""Names in print and numbers as text, for the terminal, the pages and the cards alike."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup, escape


class _Titles(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return name


TITLES = _Titles(
    pickscore="PickScore",
    hpsv2="HPSv2",
    imagereward="ImageReward",
    clip="CLIP",
    aesthetic="Aesthetic",
)
"""Names of reward models in print; a model of one's own is printed as it is named."""


class Formats:
    """Scores as text; every reward model has its own decimals, from the spread of its scores."""

    def __init__(self, spread: Mapping[str, float]) -> None:
        """``spread``: the standard deviation of the scores, by reward model."""
        self._decimals = {name: decimals_for(value) for name, value in spread.items()}

    def score(self, value: float, name: str) -> str:
        """A score to about a hundredth of its spread."""
        return minus(f"{value:.{self._decimals[name]}f}")

    def change(self, value: float, name: str) -> str:
        """A difference of scores, always with its sign."""
        return minus(f"{value:+.{self._decimals[name]}f}")

    def rounded(self, value: float, name: str) -> float:
        """The number that `score` prints."""
        return round(value, self._decimals[name])


_DIRECTIONS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
_STEERING = dict.fromkeys(_CONTROLS | set(map(ord, _DIRECTIONS)), "\N{REPLACEMENT CHARACTER}")


def decimals_for(spread: float) -> int:
    """Decimals that show about a hundredth of ``spread``, at most 6."""
    return min(6, max(0, 2 - round(math.log10(spread)))) if spread > 0 else 3


def percent(value: float | None, decimals: int = 1) -> str:
    """A share as a percentage; what could not be estimated (one image a prompt) says so."""
    if value is None:
        return "unknown"
    return f"{100 * value:.{decimals}f}\u00a0%"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return minus(f"{100 * value:+.1f}\u00a0pp")


def signed(value: float) -> str:
    """A difference with its sign, to four digits."""
    return f"{value:+.4g}"


def breakable(text: str) -> Markup:
    """A path or name that may wrap after its slashes and underscores."""
    return Markup(escape(text).replace("/", Markup("/<wbr>")).replace("_", Markup("_<wbr>")))


def harmless(text: str) -> str:
    """A text of anyone's as it may go to a terminal or a page.

    Escape sequences and other control characters, and those that turn the direction of writing,
    are replaced by a mark: they could repaint a terminal or make a text read as another.
    """
    return text.translate(_STEERING)


def minus(text: str) -> str:
    """With a minus sign in place of each hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")


def size(count: float) -> str:
    """A number of bytes in the unit a person would use."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:,.3g} {unit}"
    return f"{count:.0f} B"
