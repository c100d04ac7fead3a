"""The chat's worker: a base with adapters on top, which answers one request after the other.

`main.py` is its loop, `talker.py` the models, `prompt.py` what they read, `pieces.py` the text as it comes and
`stopping.py` the way to end it.
"""
