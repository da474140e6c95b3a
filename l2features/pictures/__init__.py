"""Layers that Neuroglancer draws: nodes, axes, skeletons and lists of segments, as precomputed bytes."""
