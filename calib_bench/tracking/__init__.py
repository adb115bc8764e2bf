"""Weights & Biases: a view of the store, logged beside training by a process of its own, and never needed.

    job -> tracker (starts, feeds and bounds) -> logging_process (reads the store) -> runs -> client -> wandb

The process reads the store and what the analysis handed over, so that `sync` replays a finished store by the same code.
"""
