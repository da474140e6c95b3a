"""Neurons: nodes, summaries, graphs and skeletons of roots."""
