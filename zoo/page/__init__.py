"""One HTML file to choose a model from: table, chart of accuracy against cost, what runs, arenas (``zoo page``)."""
