"""A run as it is watched: its state from its events, its charts, its words."""
