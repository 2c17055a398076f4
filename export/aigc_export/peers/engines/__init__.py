"""One runtime per file, run by `worker.py` in a Python that may have nothing of this product.

A file imports nothing of this product's but `this_bundle`, and has

- `version() -> str`, of the runtime's package;
- `build(source: str, form: str, into: str) -> None`, which makes the runtime's own model of `source` in the new folder
  `into`;
- `Engine(folder: str, form: str, threads: int)`, with `prompt(rows: list[list[int]], room: int) -> list[int]`, which
  reads prompts of one length into an empty state with room for so many tokens behind each and gives the likeliest next
  token of each, `step() -> list[int]`, which reads those tokens and gives the next, and
  `positions(ids: list[int]) -> Array`, the logits [S, V] float32 of all places of a text.
"""
