"""Read-only versions of CAVE's graph server and info service, for local data sets."""
