"""All benchmarks, one after the other, each in a process of its own: make bench."""

import subprocess
import sys
from pathlib import Path

for script in sorted(Path(__file__).parent.glob("bench_*.py")):
    print(f"\n{script.name}", flush=True)
    subprocess.run([sys.executable, script], check=True)
