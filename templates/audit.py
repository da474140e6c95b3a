"""What a Flex Template launches: the job, whose code is the installed package's."""

import sys

from beam_jobs.audit import main

if __name__ == "__main__":
    sys.exit(main())
