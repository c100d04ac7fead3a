"""Work in a process of its own that ends with whoever started it: `python -m engine.worker TASK`.

`process.py` is our end of such a process, `engine.worker.job` the other. What is done after training, in
`engine.evaluation`, `engine.merging`, `engine.export` and `engine.chat`, shares `subject.py`, which adapter of which run
is meant, and `device.py`, where it runs.
"""
