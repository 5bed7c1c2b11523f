"""Analyses of models: attribution maps, class activation maps, charts of accuracy against cost."""
