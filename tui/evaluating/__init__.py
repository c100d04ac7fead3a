"""What the evaluation screen knows: which rows changed, what the figures say, what is asked for. Knows no widget."""
