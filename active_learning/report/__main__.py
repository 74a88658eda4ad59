"""The report's command line: `python -m active_learning.report RESULT_DIR`."""

import sys

from active_learning.report.command import main

sys.exit(main())
