"""What models look at, and what they cost for their accuracy: attribution maps, Pareto charts."""
