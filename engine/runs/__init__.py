"""Run folders: what is in one, who writes it, and the processes around it."""
