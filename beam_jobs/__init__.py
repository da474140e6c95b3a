"""Apache Beam jobs: thin pipelines around ``l2features``, which contains the tested logic."""
