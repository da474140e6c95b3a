"""Checks of a deployment: a data set's table, graph, segmentation, rows and queues."""
