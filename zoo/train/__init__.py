"""The trainer: options, data, engine, checkpoints. ``python -m zoo train`` runs it, ``validate`` uses its parts."""
