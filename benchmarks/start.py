"""Measure how long an import and a start take: from process creation, in fresh processes.

    python benchmarks/start.py [--imports 20] [--rounds 5] [--only NAME,...]

A start is set beside the least that it can cost: importing the framework and loading the model.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import report
from servers import (
    JACKFIELD,
    PEERS,
    Bench,
    ServerError,
    add_arguments,
    note,
    prepare,
    serve,
    stop_on_sigterm,
)

IMPORTS = {
    "bare Python": "pass",
    "import numpy": "import numpy",
    "import jackfield": "import jackfield",
}
LOAD_MODEL = "import sys, sklearn, joblib; joblib.load(sys.argv[1])"
