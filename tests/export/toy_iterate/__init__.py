"""A package of a third party: a kind of pipeline, its workload, and a model, that the house does not know.

A loop of a few steps: x <- x + h f(x, t), t = 0, 1, ...
"""
