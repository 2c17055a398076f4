"""LoRA adapters in the form of huggingface/peft, merged into a language model while it is loaded.

Reference: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""
