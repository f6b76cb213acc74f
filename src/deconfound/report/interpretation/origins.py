"""From a number of the page to its runs: commands, commits, checksums, and the settings of every interpretation."""

from collections.abc import Sequence
from pathlib import Path

from deconfound.report.blocks import Block, column, section, table
from deconfound.report.interpretation.files import Interpreted
from deconfound.report.making import as_lines, relative
from deconfound.report.words import Order, anchor
from deconfound.storage import sha256


def origins(records: Sequence[Interpreted], order: Order, root: Path, file: str) -> list[Block]:
    """An entry per cell with its runs; a table of the files they were made from."""
    if not records:
        return []
    option = f" --configfile {file}" if file else ""
    files: dict[tuple[str, str], int] = {}
    groups: dict[str, list[Interpreted]] = {}
    for one in sorted(records, key=lambda one: (order.cell(one.setting, one.defense), one.seed)):
        groups.setdefault(one.group, []).append(one)
    entries = []
    for group, mine in groups.items():
        lines = [
            {
                "run": one.id,
                "command": f"snakemake results/{one.id}/interpretation.json --cores all{option}",
                "commit": one.provenance.get("commit") or "not recorded",
                "files": numbers(one, files),
                "notes": "",
            }
            for one in mine
        ]
        spec = as_lines(mine[0].spec)
        entries.append({"group": group, "anchor": anchor(group), "seeds": lines, "tables": [], "spec": spec})
    rows: list[list[Block]] = [
        [{"text": f"[{place}]", "anchor": f"file-{place}"}, {"text": path}, {"text": digest, "code": True}]
        for (path, digest), place in files.items()
    ]
    blocks: list[Block] = [{"kind": "runs", "items": entries}]
    heads = [column("file"), column("path"), column("SHA-256")]
    blocks += table("What they were made from", heads, rows) if rows else []
    read: list[list[Block]] = [
        [{"text": relative(one.path, root)}, {"text": sha256(one.path), "code": True}] for one in records
    ]
    blocks += table(
        "Files this page was read from",
        [column("path"), column("SHA-256")],
        read,
        folded=f"Checksums of {len(read)} interpretations",
    )
    lead = (
        "Every number of this page was read off the models below, with these settings. The command reads it again; "
        "numbers in brackets name the files."
    )
    return [section("evidence", "Evidence", lead, blocks)]


def numbers(one: Interpreted, files: dict[tuple[str, str], int]) -> list[int]:
    """The numbers of the files that a run was made from; new files are added."""
    made = one.provenance.get("inputs", {}).values()
    keys = [(str(about["path"]), str(about["sha256"])) for about in made]
    return sorted({files.setdefault(key, len(files) + 1) for key in keys})
