"""Where the stages read and write: one name for every folder and file between them.

All paths are relative to the working directory, which under DVC is the repository root.
"""

from __future__ import annotations

from pathlib import Path

PARAMS = Path("params.yaml")
PRESETS = Path("presets")

SCORED = Path("data/scored")  # stage one: images, latents, scores
EMBEDDINGS = Path("data/prompt_embeddings")  # stage one: one file beside each scored shard
LABELLED = Path("data/labelled")  # stage two: labels, weights, threshold.json
THRESHOLD = LABELLED / "threshold.json"
RATINGS = Path("data/ratings")  # `tgo ask`: answers of people, and the pictures they saw
COMPARED = Path("data/compared")  # `tgo ask --compare`: people's answers on base and tuned model
ANSWERS, QUESTIONS = "metadata.jsonl", "questions.json"  # in a folder of answers
REFERENCES = Path("data/reference_cache")  # stage three: shared between the runs of a sweep
CHECKPOINTS = Path("data/checkpoints")  # stage three: what a killed run continues from
TUNED = Path("models/tuned")  # stage three: the aligned model, or its adapters
LORA = "pytorch_lora_weights.safetensors"  # the file of adapters, by diffusers' name
BASE_MODEL = "base_model.json"  # beside it: the model that the adapters are for
TRAINED_ON = "trained_on.json"  # in models/tuned: which labels it was trained on
EXPORT = Path("models/export")  # `tgo export`: the same with its card, for the hub
EVALUATED = Path("data/evaluated")  # <base|tuned>/<test set>/ scored shards
VALIDATED = Path(
    "data/validated"
)  # the same for the validation prompts, outside the stage's outputs
ROUNDS = Path("rounds")  # `tgo round`: finished rounds, each a folder with these paths in it
REPORTS = Path("reports")
PLOTS = REPORTS / "plots"
METRICS = REPORTS / "metrics.json"  # about a dozen numbers, for DVC
EVALUATION = REPORTS / "evaluation.json"  # every figure behind them
PAIRS = REPORTS / "pairs.parquet"  # every pair of the test sets with its scores
STAGES = REPORTS / "stages.jsonl"  # when and where each stage ran, for people
RUNNING = REPORTS / "running.json"  # the stage that runs just now
COMPARISON = REPORTS / "compare.html"  # `tgo compare`
TRAIN_LOG = REPORTS / "train_log.jsonl"
SAMPLES = REPORTS / "samples"  # stage three: images of fixed prompts on the way
TRAINING_CURVES = PLOTS / "training.csv"  # the log for `dvc plots`
SAMPLE_PLOTS = PLOTS / "samples"  # the sample images for `dvc plots`
DVC_PLOTS = REPORTS / "dvc_plots"  # what `tgo plots` writes
SCORE_DISTRIBUTION = PLOTS / "score_distribution.csv"
