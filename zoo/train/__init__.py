"""Recipes, data, engine and checkpoints: what ``python -m zoo train`` and ``python -m zoo validate`` run."""
