"""Merging: a run's adapter and its base model made into one model in 16 bits that loads in plain transformers.

`client.py` does it, with a worker process (task `merge`) for all that needs torch; `report.py` is what was measured,
`choice.py` which merge is good enough and which of two is closer, `staging.py` the folder it grows in, `needs.py` the
memory and room that it takes.
"""
