"""Everything that runs on one machine: jobs, the updater, the local stack, the sample, the server."""
