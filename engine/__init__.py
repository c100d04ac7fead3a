"""Loradeck's engine: everything about a fine-tuning run except how it is shown.

Only `engine.worker` imports the training stack (torch and its family); it runs in subprocesses. The rest is light
enough to live in the terminal app's own process.
"""
