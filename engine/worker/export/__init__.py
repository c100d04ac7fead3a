"""What an export needs torch for: a run as one script of its own, checked against the run before it is written."""
