"""A synthetic data set, with a graph to edit."""
