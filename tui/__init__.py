"""The terminal app. It imports only the torch-free part of the engine."""
