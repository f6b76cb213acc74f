"""A copy of the project in an empty folder, with the tiny experiment as its default."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "profiles", "workflow", "claims", "dvc.yaml", ".dvcignore", ".gitignore", "src")
MADE = ("data", "checkpoints", "results", "reports")
VARYING = ("timings.html", "timings.csv")  # seconds differ from run to run


class Project:
    """A folder in which snakemake and dvc are run as a user would run them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def copy(cls, folder: Path) -> "Project":
        """What a clone holds, without anything that was made."""
        folder.mkdir(parents=True)
        for name in PARTS:
            source = ROOT / name
            if source.is_dir() and not source.is_symlink():
                ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(source, folder / name, symlinks=True, ignore=ignore)
            else:
                shutil.copy2(source, folder / name, follow_symlinks=False)
        shutil.copy(ROOT / "tests" / "workflow" / "tiny.yaml", folder / "config.yaml")
        return cls(folder)

    def environment(self) -> dict[str, str]:
        """Variables of a user who has activated the virtual environment; the copy's source comes first."""
        settings = {
            key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "SNAKEMAKE_"))
        }
        settings["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{settings['PATH']}"
        settings["PYTHONPATH"] = str(self.folder / "src")
        settings |= {"DVC_NO_ANALYTICS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        settings |= {
            f"GIT_{who}_{what}": "tester@example.org"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        return settings

    def start(self, *words: str) -> "subprocess.Popen[bytes]":
        """A command in a process group of its own, so that it can be killed with all its jobs."""
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            words, cwd=self.folder, env=self.environment(), stdout=quiet, stderr=quiet, start_new_session=True
        )

    def run(self, *words: str, status: int = 0) -> str:
        """Output of a command in the folder; its exit status is checked."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert done.returncode == status, (
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
        )
        return done.stdout

    def planned(self) -> dict[str, int]:
        """Jobs that a dry run would start, by rule; empty when there is nothing to be done."""
        text = self.run("snakemake", "-n", "--cores", "2")
        if "Nothing to be done" in text:
            return {}
        found = dict(re.findall(r"^(\w+) +(\d+)$", text.partition("Job stats")[2], flags=re.MULTILINE))
        assert found, text
        return {rule: int(count) for rule, count in found.items() if rule not in ("total", "all")}

    def edit(self, name: str, old: str, new: str) -> None:
        """Replace a text that stands in a file exactly once."""
        path = self.folder / name
        text = path.read_text()
        assert text.count(old) == 1, (name, old, text.count(old))
        path.write_text(text.replace(old, new))

    def digests(self) -> dict[str, str]:
        """SHA-256 of every file that the graph made, but for those that hold seconds."""
        files = [path for top in MADE for path in (self.folder / top).rglob("*") if path.is_file()]
        kept = [path for path in files if path.name not in (*VARYING, ".gitignore")]
        return {
            str(p.relative_to(self.folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(kept)
        }
