"""Graphs: which L2 node a supervoxel belongs to, and which supervoxels a node has."""
