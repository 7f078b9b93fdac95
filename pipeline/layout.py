"""Where the stages read and write: one name for every folder and file between them.

All paths are relative to the working directory, which under DVC is the repository root.
"""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")

SCORED = Path("data/scored")  # stage one: images, codes, scores
EMBEDDINGS = Path("data/prompt_embeddings")  # stage one: one file beside each scored shard
LABELLED = Path("data/labelled")  # stage two: labels, weights, threshold.json
THRESHOLD = LABELLED / "threshold.json"
CHECKPOINTS = Path("data/checkpoints")  # stage three: what a killed run continues from
TUNED = Path("models/tuned")  # stage three: the aligned model
EVALUATED = Path("data/evaluated")  # <base|tuned>/<test set>/ scored shards
VALIDATED = Path(
    "data/validated"
)  # the same for the validation prompts, outside the stage's outputs
REPORTS = Path("reports")
PLOTS = REPORTS / "plots"
METRICS = REPORTS / "metrics.json"
TRAIN_LOG = REPORTS / "train_log.jsonl"
SCORE_DISTRIBUTION = PLOTS / "score_distribution.csv"
