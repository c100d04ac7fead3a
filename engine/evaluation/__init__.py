"""Whether an adapter is better than its base: on held-out rows, on a benchmark set, and on general text.

`run_evaluation.py` does it all; `plan.py` is what the worker is asked and says; `benchmark_set.py` reads a benchmark,
`scoring.py` scores its answers, `resampling.py` has the intervals and tests, `comparing.py` puts them together, and
`results.py` keeps what came out in the run's folder.
"""
