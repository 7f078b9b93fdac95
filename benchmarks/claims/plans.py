"""Which runs answer which question."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

from benchmarks.claims.run import Run, Split
from benchmarks.claims.spending import Rule

Changes = Mapping[str, Any]


def levels(mean: float, std: float = 0.8, *, snr_gamma: float | None = None) -> Changes:
    """Noise levels of training drawn logit-normally: a `mean` above 0 gives mostly noise."""
    drawn = {"draw": "logit_normal", "mean": mean, "std": std, "snr_gamma": snr_gamma}
    return {"train.timesteps": drawn}


FAMILY: Changes = {
    "train.timesteps": {"draw": "family", "mean": 0.0, "std": 1.0, "snr_gamma": None}
}
PER_PROMPT: Changes = {"label.scope": "prompt", "label.shrinkage": 1.0}
ALL_FIVE: Changes = {
    "label.reward": dict.fromkeys(("pickscore", "hpsv2", "imagereward", "clip", "aesthetic"), 1.0),
    "label.standardise": "z-score",
}
COSINE: Changes = {"train.schedule": {"name": "cosine", "warmup": 0}}


def base(split: Split = "validation") -> list[Run]:
    """The base models, eight images a prompt: two to compare, all eight for best-of-4 twice."""
    guidances = {"diffusion": (1.0, 1.5, 3.0, 4.0), "masked": (1.0, 2.0, 4.0, 6.0)}
    return [
        Run(
            f"{split}-{paradigm}-base",
            paradigm,
            split,
            None,
            measured=8,
            guidances=guidances[paradigm] if split == "validation" else (),
        )
        for paradigm in ("diffusion", "masked")
    ]


def feedback(name: str) -> Changes:
    """One reward model, or column, as the feedback."""
    return {"label.reward": {name: 1.0}}


def objectives(**own: Any) -> dict[str, Any]:
    """All objectives' settings as shipped, some of them changed."""
    shipped: dict[str, Any] = {
        "tgo": {"shift_decay": None},
        "bco": {"shift_decay": 0.99},
        "csft": {"negative_prefix": "Weird image. "},
        "dpo": {"pairs": "all"},
        "dspo": {"pairs": "all", "beta": 0.001},
        "mapo": {"pairs": "all", "beta": 0.1, "scale": 0.5, "steps": 1000.0},
        "rwr": {"beta": 1.0},
        "lair": {"penalty": 1.0},
        "nft": {"mix": 1.0, "clip": 5.0},
    }
    return shipped | own


METHODS = ("sft", "csft", "dpo", "kto", "dspo", "mapo", "rwr", "lair", "nft", "bco")
ADVISED, PUBLISHED, ROUNDS = "tgo, as advised", "tgo, as published", "tgo, in rounds"
REGRESSION_ONLY = ("dspo", "nft")
SEEDS = (0, 1, 2)
BUDGET: Changes = {"train.steps": 200, "train.draws": 2}
"""Of every training in the table: 200 steps of 64 images, each corrupted twice."""


def _own(method: str, paradigm: str) -> list[Changes]:
    """Two values of a method's own parameter; one empty change where it has none."""
    betas = (10.0, 30.0) if paradigm == "masked" else (0.2, 1.0)
    if method in ("dpo", "kto", "bco", ADVISED):
        return [{"train.beta": beta} for beta in betas]
    if method == "lair":
        beta = {"train.beta": betas[0]}
        return [beta | _with(lair={"penalty": penalty}) for penalty in (0.1, 1.0)]
    choices: dict[str, list[dict[str, Any]]] = {
        "dspo": [{"dspo": {"pairs": "all", "beta": beta}} for beta in (0.001, 0.02)],
        "mapo": [
            {"mapo": {"pairs": "all", "beta": beta, "scale": 0.5, "steps": 1000.0}}
            for beta in (0.1, 0.5)
        ],
        "rwr": [{"rwr": {"beta": beta}} for beta in (0.5, 1.0)],
        "nft": [{"nft": {"mix": 1.0, "clip": clip}} for clip in (1.0, 5.0)],
    }
    return [_with(**own) for own in choices[method]] if method in choices else [{}]


def _with(**own: Any) -> dict[str, Any]:
    return {"train.objectives": objectives(**own)}


def noise(paradigm: str) -> Changes:
    """Noise levels in the claims table's runs; masked models keep their family's own."""
    return levels(1.2) if paradigm == "diffusion" else {}


def grid(method: str, paradigm: str) -> list[Changes]:
    """The four candidate settings that a method is tuned over.

    Two step sizes times two values of the method's own parameter, or four step sizes where it has
    none. Methods on labels have thresholds per prompt, as the advised TGO; the published one has
    the paper's: one threshold, raw weights, beta 1 and the family's noise levels.
    """
    own = _own(method, paradigm)
    rates = (3e-5, 1e-4, 3e-4, 1e-3) if len(own) == 1 else (1e-4, 3e-4)
    if paradigm == "masked":
        rates = (1e-5, 3e-5, 1e-4, 3e-4) if len(own) == 1 else (5e-5, 2e-4)
    start = {**BUDGET, "train.objective": method, **PER_PROMPT, **noise(paradigm)}
    if method == ADVISED:
        start["train.objective"] = "tgo"
    if method == PUBLISHED:
        start = {**BUDGET, "train.objective": "tgo", "label.weights": "raw", "train.beta": 1.0}
        start |= {"label.scope": "global", "label.shrinkage": None}
    return [{**start, **mine, "train.learning_rate": rate} for rate in rates for mine in own]


def methods(paradigm: str) -> list[str]:
    """The trained methods of the claims table, the two TGO variants first."""
    masked = paradigm == "masked"
    return [
        ADVISED,
        PUBLISHED,
        *(name for name in METHODS if not (masked and name in REGRESSION_ONLY)),
    ]


def tune(paradigm: str) -> list[Run]:
    """Every method of the table on the validation prompts, by the same small budget."""
    return [
        Run(name, paradigm, changes=changes)
        for method in methods(paradigm)
        for name, changes in zip(tuned(method, paradigm), grid(method, paradigm), strict=True)
    ]


def tuned(method: str, paradigm: str) -> tuple[str, ...]:
    """Names of the validation runs among which a method's settings are chosen."""
    if method == ROUNDS:
        return tuple(run.name for run in _rounds(paradigm))
    return tuple(f"tune-{paradigm}-{_slug(method)}-{n}" for n in range(len(grid(method, paradigm))))


def _slug(method: str) -> str:
    return method.replace(", ", "-").replace(" ", "-")


def _rounds(paradigm: str) -> list[Run]:
    """Multi-round TGO runs with about as many images and steps in all as the one-round runs."""
    rates = (2e-4, 1e-4) if paradigm == "diffusion" else (1e-4,)
    start = {**BUDGET, **PER_PROMPT, **noise(paradigm)}
    return [
        Run(
            f"rounds-{paradigm}-{rounds}x{prompts}-{steps}-{rate:g}",
            paradigm,
            changes={**start, "train.steps": steps, "train.learning_rate": rate},
            prompts=prompts,
            rounds=rounds,
        )
        for rounds, prompts, steps in ((3, 256, 70), (2, 256, 100))
        for rate in rates
    ]


def levers(paradigm: str) -> list[Run]:
    """Single changes to TGO at the claims table's training budget, on validation prompts."""
    rate = 2e-4 if paradigm == "diffusion" else 1e-4
    start = {**BUDGET, **PER_PROMPT, **noise(paradigm), "train.learning_rate": rate}

    def vary(name: str, changes: Changes, **run: Any) -> Run:
        return Run(f"lever-{paradigm}-{name}", paradigm, changes={**start, **changes}, **run)

    more = {"train.steps": 600, "train.learning_rate": 1e-4}
    found = [
        vary("three-rounds-of-2048", {"train.learning_rate": 1e-4}, rounds=3),
        vary("start", {}),
        vary("scope-global", {"label.scope": "global", "label.shrinkage": None}),
        vary("scope-domain", {"label.scope": "domain", "label.shrinkage": None}),
        vary("draws-1", {"train.draws": 1}),
        vary("draws-4", {"train.draws": 4}),
        vary("draws-4-batch-32", {"train.draws": 4, "train.batch_size": 32}),
        vary("feedback-five", ALL_FIVE),
    ]
    if paradigm == "diffusion":
        found += [
            vary("one-round-of-6144", more, prompts=1536),
            vary("beta-0.05", {"train.beta": 0.05}),
            vary("levels-family", FAMILY),
            vary("levels-0.5", levels(0.5, 1.0)),
            vary("cosine", {**COSINE, "train.learning_rate": 3e-4}),
            vary("batch-128-draws-1", {"train.batch_size": 128, "train.draws": 1}),
            vary("more-images", {}, prompts=1536),
        ]
    else:
        found += [vary("beta-100", {"train.beta": 100.0}), vary("beta-10", {"train.beta": 10.0})]
    return found


def table(paradigm: str, seeds: Iterable[int] = SEEDS) -> list[Run]:
    """The claims table: each method's best setting of validation on the test sets, seed by seed."""
    return [
        Run(
            f"test-{paradigm}-{_slug(method)}-{seed}",
            paradigm,
            "tests",
            {"train.seed": seed},
            best_of=tuned(method, paradigm),
            prompts=256 if method == ROUNDS else 512,
        )
        for seed in seeds
        for method in (*methods(paradigm), ROUNDS)
    ]


def test_names(method: str, paradigm: str) -> list[str]:
    """Names of a method's runs on the test sets, by seed."""
    return [f"test-{paradigm}-{_slug(method)}-{seed}" for seed in SEEDS]


def questions() -> list[Run]:
    """What the paper claims or leaves open, with the advised settings, on the test sets."""
    found: list[Run] = []

    def ask(
        name: str,
        changes: Changes,
        seeds: Iterable[int] = (0,),
        method: str = ADVISED,
        **run: Any,
    ) -> None:
        found.extend(
            Run(
                f"ask-{name}-{seed}",
                "diffusion",
                "tests",
                {**changes, "train.seed": seed},
                best_of=tuned(method, "diffusion"),
                **run,
            )
            for seed in seeds
        )

    unweighted = {"label.weights": "none", "label.confidence": None}
    single = {"label.scope": "global", "label.shrinkage": None}
    ask("as-shipped", single, SEEDS)
    for percentile in (10.0, 30.0, 70.0, 90.0):
        ask(f"percentile-{percentile:g}", {**single, "label.percentile": percentile})
    ask("one-image-a-prompt", single, prompts=2048, images=1)
    for prompts in (32, 128):
        ask(f"images-{4 * prompts}", {}, (0, 1), prompts=prompts)
        ask(f"images-{4 * prompts}-unweighted", unweighted, (0, 1), prompts=prompts)
    ask("images-2048-unweighted", unweighted, (0, 1))
    for name in ("hpsv2", "imagereward", "clip", "aesthetic"):
        ask(f"feedback-{name}", feedback(name))
    ask("feedback-five", ALL_FIVE)
    for how in ("mean", "dawid-skene", "standardised"):
        ask(f"stars-{how}", feedback("rating"), SEEDS, stars=how)
    for rule in get_args(Rule):
        ask(f"spend-{rule}", single, SEEDS, spend=rule)
    halves: tuple[Rule, ...] = ("two", "uncertain")
    for rule in halves:
        ask(f"spend-{rule}-1024", single, SEEDS, spend=rule, budget=1024)
    ask("rounds-replayed", {}, SEEDS, method=ROUNDS, replay=True)
    ask("scope-domain", {"label.scope": "domain", "label.shrinkage": None})
    ask("scope-prompt", {"label.scope": "prompt", "label.shrinkage": None})
    ask("images-200", {}, prompts=50)
    ask("positives-5", {"label.percentile": 95.0, **single, "train.positives": 0.5})
    ask("ordinal", {"label.ordinal": [20.0, 40.0, 60.0, 80.0], **single})
    ask("beta-auto", {"train.beta": "auto"})
    ask("draws-1", {"train.draws": 1})
    ask("draws-4", {"train.draws": 4})
    ask("images-8192", {}, (0, 1), prompts=2048)
    ask("images-8192-unweighted", unweighted, (0, 1), prompts=2048)
    return found


def claims() -> list[Run]:
    """All runs behind docs/claims.md; runs that others depend on come first."""
    paradigms = ("diffusion", "masked")
    measured = [replace(run, measured=4) for run in base("tests")]
    early = [run for paradigm in paradigms for run in tune(paradigm)]
    rounds = [run for paradigm in paradigms for run in _rounds(paradigm)]
    tried = [run for paradigm in paradigms for run in levers(paradigm)]
    last = [replace(run, guidances=()) for run in base()]
    return [
        *last,
        *measured,
        *(run for run in tried if run.rounds > 1 or "6144" in run.name),
        *early,
        *rounds,
        *table("diffusion"),
        *table("masked"),
        *(run for run in tried if run.rounds == 1 and "6144" not in run.name),
        *questions(),
    ]
