"""GGUF files of language models, as llama.cpp's tools write them: sizes, weights and tokenizer, read as programs."""
