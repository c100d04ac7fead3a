"""Talking to a run's model: its base and adapters of it, in a worker process that stays between questions.

`session.py` is our end of that process; `engine.worker.chat` the other.
"""
