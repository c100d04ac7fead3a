"""Training data before it is tokens: where rows come from, their shapes, what is wrong with them."""
