"""Where the wall time of a run goes: useful computation, imports, orchestration.

Runs an experiment in an empty folder and divides its core-seconds (wall time x cores). Shares, not seconds, are what
carries over to another machine.

    python benchmarks/wall_time.py [--experiment config.yaml] [--cores 2] [--json wall_time.json]
"""

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {  # what a job of each rule imports before it computes
    "fetch": "deconfound.steps.fetch, deconfound.data.scenes",
    "poison": "deconfound.steps.poison, deconfound.poisons.badnets",
    "train": "deconfound.steps.train, deconfound.defenses.standard, deconfound.models.small_cnn",
    "defend": "deconfound.steps.train, deconfound.defenses.cbd, deconfound.models.small_cnn",
    "attack": "deconfound.steps.attack, deconfound.attacks.pgd, deconfound.models.small_cnn",
    "evaluate": "deconfound.steps.evaluate, deconfound.attacks.pgd, deconfound.models.small_cnn",
    "plan": "deconfound.graph",
    "claims": "deconfound.steps.claims",
    "report": "deconfound.steps.report",
    "timings": "deconfound.steps.timings",
}
REPEATS = 3


def start_up(modules: str) -> float:
    """Median seconds to start Python and import the modules."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import deconfound.__main__, {modules}"], check=True)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def run(folder: Path, experiment: Path, cores: int) -> float:
    """Wall seconds of the whole run in an empty folder."""
    for name in ("Snakefile", "profiles", "workflow", "claims"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(experiment, folder / "config.yaml")
    begin = time.perf_counter()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = ["snakemake", "--cores", str(cores), "--quiet", "all"]
    subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, check=True)
    return time.perf_counter() - begin


def jobs(folder: Path) -> dict[str, list[float]]:
    """Wall seconds of every job, by rule, from the workflow's benchmark files."""
    found: dict[str, list[float]] = {}
    for path in sorted((folder / "timings").rglob("*.tsv")):
        with path.open() as file:
            row = next(csv.DictReader(file, delimiter="\t"))
        found.setdefault(path.relative_to(folder / "timings").parts[0], []).append(float(row["s"]))
    return found


def main() -> None:
    """Run, divide, print, and write JSON if asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiment", type=Path, default=ROOT / "config.yaml")
    parser.add_argument("--cores", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        wall = run(Path(name), options.experiment, options.cores)
        found = jobs(Path(name))
    total = wall * options.cores
    rows = []
    for rule, seconds in found.items():
        imports = min(start_up(IMPORTS[rule]) * len(seconds), sum(seconds))
        rows.append(
            {"rule": rule, "jobs": len(seconds), "useful": sum(seconds) - imports, "imports": imports}
        )
    useful, imports = (sum(float(row[key]) for row in rows) for key in ("useful", "imports"))
    shares = {
        "useful": useful / total,
        "imports": imports / total,
        "orchestration": 1 - (useful + imports) / total,
    }
    print(f"{'rule':<10} {'jobs':>5} {'useful s':>9} {'imports s':>10}")
    for row in rows:
        print(f"{row['rule']:<10} {row['jobs']:>5} {row['useful']:>9.1f} {row['imports']:>10.1f}")
    print(f"\n{wall:.0f} s of wall time on {options.cores} cores, {total:.0f} core-seconds:")
    for name, share in shares.items():
        print(f"  {name:<14} {share:6.1%}")
    if options.json:
        found_all = {"wall": wall, "cores": options.cores, "shares": shares, "rules": rows}
        options.json.write_text(json.dumps(found_all, indent=1) + "\n")


if __name__ == "__main__":
    main()
