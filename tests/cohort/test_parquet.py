import subprocess
import sys

ASKED = """
import os, sys
import pyarrow as pa
from medray.cohort.cohort import open_cohort

def threads():
    return sorted(n for n in os.listdir("/proc/self/task") if "jemalloc" not in open(f"/proc/self/task/{n}/comm").read())

cohort = open_cohort(sys.argv[1])
before = threads()
cohort.volume(cohort.rows[0])
sys.exit(before != threads())
"""


def test_no_thread_of_arrow_outlives_what_it_reads(phantom_cohort):
    """A process that ends while one holds what Python made aborts, so that there must be none."""
    assert subprocess.run([sys.executable, "-c", ASKED, phantom_cohort.root.path], check=False).returncode == 0
