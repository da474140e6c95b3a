"""Jobs without Beam (ingest, audit, versions): their options, runs and reports."""
