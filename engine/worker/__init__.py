"""The only code that imports the training stack. It runs in subprocesses: `python -m engine.worker TASK ...`."""
