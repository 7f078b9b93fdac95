"""Which of the paper's claims hold in the embedded world: many runs, measured and compared.

run.py          what a run is, and one run from shards to scores
spending.py     fewer images, spent where they tell more; shards of several rounds as one folder
stars.py        stars of simulated raters as feedback
captured.py     the trainer's step as a CUDA graph
measure.py      a model's images on a set of prompts, scored and judged
workers.py      many runs at once, resumable one by one
plans.py        which runs answer which question
exploration.py  the first of them: one setting changed at a time
compare.py      runs beside the base model: gains, intervals, over-optimisation
page.py         docs/claims.md from the results
"""
