"""Folders that transformers writes, read without it: config.json, weights and tokenizer of a language model.

A family is data: what its config.json means as `LMConfig`, and a table of names of its tensors.
"""
