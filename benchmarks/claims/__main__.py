"""Runs many trainings, compares them, and writes docs/claims.md.

    python -m benchmarks.claims explore    levers one by one, on the validation prompts
    python -m benchmarks.claims claims     methods tuned on validation, then the test sets
    python -m benchmarks.claims page       docs/claims.json from the results, where there are
                                           any, and docs/claims.md from docs/claims.json

Every run that is done is kept, so the same command goes on where it was killed. To go on from the
runs that docs/claims.md tells of, unpack them first:

    mkdir -p data/claims
    for results in benchmarks/results/claims-*.tar.xz; do tar -C data/claims -xf $results; done
"""

from __future__ import annotations

import argparse
import json
from fnmatch import fnmatch
from pathlib import Path

from benchmarks.claims import exploration, plans
from benchmarks.claims.page import page
from benchmarks.claims.summary import summarise
from benchmarks.claims.workers import Crew

PLANS = {"explore": exploration.explore, "claims": plans.claims}
SUMMARY, PAGE = Path("docs/claims.json"), Path("docs/claims.md")


def main() -> None:
    """The command line; see the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*PLANS, "page"))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes at once")
    parser.add_argument("--seconds", type=float, help="begin no run that would end after this")
    parser.add_argument("--only", default="*", help="runs of such names, as 'ask-percentile-*'")
    parser.add_argument("--root", type=Path, default=Path("data/claims"))
    options = parser.parse_args()
    if options.what == "page":
        results = options.root / "results"
        if results.is_dir():
            text = json.dumps(summarise(results), indent=1) + "\n"
            SUMMARY.write_text(text, encoding="utf-8")
        PAGE.write_text(page(json.loads(SUMMARY.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    crew = Crew(options.root, options.device, options.workers, options.seconds)
    crew.do([run for run in PLANS[options.what]() if fnmatch(run.name, options.only)])


if __name__ == "__main__":
    main()
