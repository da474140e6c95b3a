"""Checks of a deployment: what a data set's table, graph, segmentation, rows and queues are like."""
