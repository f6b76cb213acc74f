"""How the report was made: from a number to its runs, their commands, commits and checksums."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from deconfound.report.blocks import Block, column, facts, section, table
from deconfound.report.figures import grouped
from deconfound.report.inputs import TABLES, Inputs, Result, Run
from deconfound.report.words import Order, anchor, budget, count, label, metric_label
from deconfound.storage import commit, sha256

RENDERERS = ("matplotlib", "seaborn", "jinja2", "typst")
TIMINGS = "timings.html"


def plain(value: Any) -> Any:
    """A configuration as JSON can hold it."""
    return json.loads(json.dumps(value, default=str))


def as_yaml(value: Any) -> str:
    """A configuration as text; keys keep their order."""
    return str(
        yaml.safe_dump(plain(value), sort_keys=False, allow_unicode=True, width=88, default_flow_style=None)
    ).rstrip("\n")


def as_lines(value: Mapping[str, Any]) -> str:
    """The settings of a run, a line (or a few) per part."""
    dump: Any = {"sort_keys": False, "allow_unicode": True, "width": 84, "default_flow_style": True}
    return "\n".join(f"{key}: {yaml.safe_dump(part, **dump)}".rstrip() for key, part in plain(value).items())


def relative(path: Path, root: Path) -> str:
    """A path as seen from the project, so that no report names a machine."""
    whole, base = path.resolve(), root.resolve()
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else path.name


def evidence(inputs: Inputs, order: Order, file: str = "") -> list[Block]:
    """One entry per cell: its runs with command and commit, what they were made from, hits out of totals."""
    results = dict(grouped(inputs.results, lambda row: row.group))
    runs = dict(grouped(inputs.runs, lambda run: run.group))
    first = {group: rows[0] for group, rows in (*results.items(), *runs.items())}
    files: dict[tuple[str, str], int] = {}
    entries = []
    for group in sorted(first, key=lambda name: order.cell(first[name].setting, first[name].defense)):
        entries.append(entry(group, results.get(group, []), runs.get(group, []), files, file))
    if not entries:
        return []
    rows: list[list[Block]] = [
        [{"text": f"[{place}]", "anchor": f"file-{place}"}, {"text": path}, {"text": digest, "code": True}]
        for (path, digest), place in files.items()
    ]
    blocks: list[Block] = [{"kind": "runs", "items": entries}]
    if rows:
        heads = [column("file"), column("path"), column("SHA-256")]
        blocks += table("What the runs were made from", heads, rows)
    lead = (
        "Every number in this report comes from the runs below. The command makes a run's result again; "
        "numbers in brackets name the files it was made from."
    )
    return [section("evidence", "Evidence", lead, blocks)]


def entry(
    group: str,
    results: Sequence[Result],
    runs: Sequence[Run],
    files: dict[tuple[str, str], int],
    file: str = "",
) -> Block:
    """One cell of the experiment; `file` is the experiment's, where it is not the default one."""
    option = f" --configfile {file}" if file else ""
    seeds = sorted({row.seed for row in results} | {run.seed for run in runs})
    by_seed = {run.seed: run for run in runs}
    lines = []
    for seed in seeds:
        made = by_seed[seed].provenance if seed in by_seed else {}
        used = []
        for about in made.get("inputs", {}).values():
            used.append(files.setdefault((str(about["path"]), str(about["sha256"])), len(files) + 1))
        lines.append(
            {
                "run": f"{group}/seed{seed}",
                "command": f"snakemake results/{group}/seed{seed}/evaluation.json --cores all{option}",
                "commit": made.get("commit") or "not recorded",
                "files": sorted(set(used)),
                "notes": "; ".join(f"{label(k)}: {note(v)}" for k, v in by_seed[seed].notes.items())
                if seed in by_seed
                else "",
            }
        )
    rows = []
    for at, mine in grouped(
        [row for row in results if not row.curve],
        lambda row: (row.attack != "none", row.attack, row.metric, row.eps),
    ):
        words = metric_label(at[2]) + (f", {label(at[1])}" if at[0] else "")
        hits = {row.seed: {"text": f"{row.hits} / {row.total}", "gate": row.gate} for row in mine}
        cells = [{"text": words, "note": budget(mine[0].norm, mine[0].eps) if mine[0].norm else ""}]
        rows.append(cells + [hits.get(seed, {"text": "–"}) for seed in seeds])
    heads = [column("hits / examples"), *(column(f"seed {seed}") for seed in seeds)]
    spec = runs[0].spec if runs else {}
    return {
        "group": group,
        "anchor": anchor(group),
        "seeds": lines,
        "tables": table(f"{group}: hits out of examples, by seed", heads, rows) if rows else [],
        "spec": as_lines(spec),
    }


def note(value: Any) -> str:
    """A note of a run as text."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def making(inputs: Inputs, experiment: Mapping[str, Any], tables: Path, root: Path) -> list[Block]:
    """Configuration, versions, machine, and the checksums of what the report was read from."""
    runs = inputs.runs
    said = [
        ("commit of the runs", tally(str(r.provenance.get("commit") or "not recorded") for r in runs)),
        ("commit of the report", [commit() or "not recorded"]),
        *recorded(runs, "versions"),
        ("drawn and set with", [f"{name} {version(name)}" for name in RENDERERS]),
        *recorded(runs, "machine"),
    ]
    sources = [tables / f"{name}.csv" for name in TABLES] + [run.path for run in runs]
    rows: list[list[Block]] = [
        [{"text": relative(path, root)}, {"text": sha256(path), "code": True}] for path in sources
    ]
    blocks: list[Block] = [
        facts([(name, values) for name, values in said if values]),
        {
            "kind": "link",
            "text": "Seconds and memory of every step differ from run to run while this report does not, "
            "so they stand on a page of their own: ",
            "file": TIMINGS,
        },
        {"kind": "code", "label": "Configuration", "text": as_yaml(experiment.get("config", experiment))},
        *table(
            "Files this report was read from",
            [column("path"), column("SHA-256")],
            rows,
            folded=f"Checksums of {count(len(rows), 'file')}",
        ),
    ]
    lead = "The same configuration, seeds and versions give the same bytes on the same type of machine."
    return [section("making", "How this was made", lead, blocks)]


def tally(values: Any) -> list[str]:
    """Distinct values with the number of runs of each, when there is more than one."""
    seen: dict[str, int] = {}
    for value in values:
        seen[value] = seen.get(value, 0) + 1
    return list(seen) if len(seen) < 2 else [f"{value} ({count(n, 'run')})" for value, n in seen.items()]


def recorded(runs: Sequence[Run], part: str) -> list[tuple[str, list[str]]]:
    """What the records of the runs say in a part of their provenance, by name."""
    found = [run.provenance.get(part, {}) for run in runs]
    names = sorted({name for about in found for name in about})
    return [(name, tally(str(about.get(name)) for about in found if name in about)) for name in names]
