"""The sample: a synthetic data set, with a graph that can be edited."""
