"""Rows as tokens: the checked rows that a scan keeps, and what a model learns of each."""
