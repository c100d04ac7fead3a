"""Work in a process of its own that ends with whoever started it: `python -m engine.worker TASK`.

`process.py` is our end of such a process, `engine.worker.job` the other. `subject.py` says which adapter of which run
is meant by what is done after training, and `device.py` where that runs: `engine.evaluation`, `engine.merging`,
`engine.export`, `engine.chat`.
"""
