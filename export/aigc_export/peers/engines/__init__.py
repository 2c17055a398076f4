"""One runtime per file, run by `worker.py` in a Python that may have nothing of this product.

A file imports nothing of this product's but `this_bundle`, and has

- `version() -> str`, of the runtime's package;
- `build(source: str, form: str, into: str) -> None`, which makes the runtime's own model of `source` in the new folder
  `into`;
- `Engine(folder: str, form: str, threads: int)`, with `prompt(ids: list[int], room: int) -> int`, which reads a prompt
  into an empty state with room for so many tokens behind it and gives the likeliest next token, `step() -> int`, which
  reads that token and gives the next, and `positions(ids: list[int]) -> Array`, the logits [S, V] float32 of all places
  of a text.
"""
