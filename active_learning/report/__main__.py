"""The report's command line: `python -m active_learning.report RESULT_DIR`."""

import sys

from active_learning.report import main

sys.exit(main())
