"""Other runtimes of language models beside a bundle, each in a process of its own, by its own Python if need be."""
