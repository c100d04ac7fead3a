"""The plan: a draft of a spec, its layers, its memory, and what is said about them."""
