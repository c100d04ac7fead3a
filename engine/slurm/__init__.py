"""Runs as Slurm jobs: the script, Slurm's commands, what watches a job from outside, and what it knows from inside."""
