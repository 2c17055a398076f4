"""Rewrites of a decoder: a graph that carries a cache of keys and values from run to run."""
