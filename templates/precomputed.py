"""Entry point of the Flex Template."""

import sys

from beam_jobs.precomputed import main

if __name__ == "__main__":
    sys.exit(main())
