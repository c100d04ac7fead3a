"""The worker's part of merging: the task `merge`.

`task.py` is the order of things: base and adapter answer (`measured.py`, `compare.py`, `speed.py`), then each merge is
written and answers too. `stream.py` merges layer by layer, with the base's layers from `opened.py` and PEFT's own code
on them (`adapted.py`); `whole.py` merges a model that cannot be taken apart.
"""
