"""Stage two: scalars, thresholds, labels, weights, and what to make of them."""
