"""The memory trace: the code that would train, run on tensors without data, every allocation of it written down.

`task.py` answers a request; `model.py` builds and loads the model, `loops.py` trains it, `log.py` writes down what is
allocated and freed, `cuda.py` and `kernels.py` make it what a GPU would do. It patches libraries, so each trace is a
process of its own.
"""
