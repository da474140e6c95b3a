"""CAVE's services over local data sets, for reading: the graph server and the info service."""
