"""The names of the ways to make one rating of several; apart, since the command line has them."""

from __future__ import annotations

from enum import StrEnum


class Aggregate(StrEnum):
    """How several ratings of an image become one.

    - mean: the mean of an image's ratings.
    - standardised: each rater's ratings in standard deviations from the rater's own mean (drawn to
      those of all ratings while a rater has few), then the mean, then back to the scale.
    - dawid-skene: a confusion matrix a rater, fitted by expectation maximisation (Dawid and Skene,
      1979; crowd-kit); the mean of the rating under its posterior.
    - bradley-terry: strengths of a prompt's images from comparisons (Bradley and Terry, 1952;
      choix).
    """

    mean = "mean"
    standardised = "standardised"
    dawid_skene = "dawid-skene"
    bradley_terry = "bradley-terry"
