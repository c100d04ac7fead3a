"""What a run will need: predicted bytes, and whether they fit."""
