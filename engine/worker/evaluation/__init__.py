"""The worker's side of an evaluation: `engine.evaluation.plan` says what it is asked and what it tells.

The model is loaded once. Of each batch every model does its part before the next batch is begun: both meet the same
batches, and where the time is over both have done the same rows.
"""
