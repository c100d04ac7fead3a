"""The headless commands: `main.py` names them all, each other file holds one family of them.

Each prints for people, or with `--json` one JSON document on stdout and nothing else.
Exit codes: 0 done, 1 failed, 2 the input is wrong, 3 out of memory, 130 stopped.
"""
