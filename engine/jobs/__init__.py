"""What is done with a run after training, each in a worker process of its own: `python -m engine.worker TASK`.

`process.py` is our end of such a process, `subject.py` says which adapter of which run is meant. Evaluating, merging,
exporting and chatting lie beside it as `engine.evaluation`, `engine.merging`, `engine.export` and `engine.chat`.
"""
