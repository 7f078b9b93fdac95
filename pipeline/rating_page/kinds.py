"""What a question shows, and which come first; apart, since the command line names them."""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a question shows: one picture, two to compare, or all of a prompt to rate."""

    single = "single"
    pair = "pair"
    grid = "grid"


class Order(StrEnum):
    """Which questions come first.

    random: none before others. domain: one domain after the other in turn. uncertain: scores
    nearest their threshold (of pairs: nearest each other). disagree: where the reward models
    contradict each other most.
    """

    random = "random"
    domain = "domain"
    uncertain = "uncertain"
    disagree = "disagree"
