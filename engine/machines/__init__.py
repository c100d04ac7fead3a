"""Several machines that train one run: which they are, how their supervisors keep in touch, what they agree on."""
