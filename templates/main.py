"""Entry point of a Flex Template: runs the job that the image names."""

import importlib
import os
import sys

if __name__ == "__main__":
    sys.exit(importlib.import_module(f"beam_jobs.{os.environ['L2FEATURES_JOB']}").main())
