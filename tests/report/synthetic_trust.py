"""What a made-up experiment says of its attacks: checks of the trust gate, gates of its numbers, costs, ranks.

Digits are assessed, but for the budget of L2 1.5; TRADES on the CNN fails two checks in seeds 0 and 2 under L∞ 0.2. Of
the scenes only one model is assessed, whose answers vary. Nothing else is assessed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

SEEDS = (0, 1, 2)
OF_MODEL = ("answers", "repeats", "independent")
OF_THREAT = (
    *("attacks_ran", "gradients", "exploding", "logits", "more_steps", "more_restarts", "noise", "black_box"),
    *("transfer", "logit_scale", "growing_eps", "whole_box"),
)
FAILING = {
    "black_box": "Square breaks what no gradient breaks",
    "more_steps": "PGD with 100 steps breaks more",
}
ASSESSED = {("linf", 0.2)}
Row = dict[str, Any]


def failures(row: Mapping[str, Any], seed: int) -> list[str] | None:
    """Checks that fail for a number of one seed; None where the gate was not asked."""
    if row["dataset"] == "digits":
        if row["norm"] and (row["norm"], row["eps"]) not in ASSESSED and not row.get("curve"):
            return None
        bad = (row["model"], row["defense"], row["norm"]) == ("cnn", "trades", "linf") and seed != 1
        return sorted(FAILING) if bad else []
    if (row["poison"], row["defense"]) == ("badnets", "cbd_shuffled"):
        return ["repeats"] if seed == 1 else []
    return None


def gate(row: Mapping[str, Any], seeds: tuple[int, ...] = SEEDS) -> str:
    """The gate's verdict as the tables write it."""
    found = [failures(row, seed) for seed in seeds]
    names = sorted({name for failed in found if failed for name in failed})
    if names:
        where = "" if len(seeds) == 1 else f" in {sum(map(bool, found))} of {len(seeds)} seeds"
        return f"failed{where}: {', '.join(names).replace('_', ' ')}"
    return "not assessed" if None in found else "passed"


def both(row: Mapping[str, Any]) -> str:
    """The gate of a difference: that of the side which is worse off."""
    said = {name: gate({**row, "defense": name}) for name in (row["defense"], row["control"])}
    failed = [f"{name} {text}" for name, text in said.items() if text.startswith("failed")]
    if failed:
        return f"failed ({'; '.join(failed)})"
    return "not assessed" if "not assessed" in said.values() else "passed"


def add_gates(rows: dict[str, list[Row]]) -> None:
    """Fill the gate of every number."""
    for row in rows["results"]:
        row["gate"] = gate(row, (row["seed"],))
    for row in (*rows["summary"], *rows["per_class"]):
        row["gate"] = gate(row)
    for row in rows["differences"]:
        row["gate"] = both(row)


def add_checks(rows: dict[str, list[Row]]) -> None:
    """A row per run and check."""
    cells = {(r["dataset"], r["poison"], r["model"], r["defense"]): r for r in rows["summary"]}
    for row in cells.values():
        for seed in SEEDS:
            for norm, eps, check in checks_of(row):
                at = {**row, "norm": norm, "eps": eps}
                failed = check in (failures(at, seed) or ())
                rows["trust"].append(check_row(at, seed, check, failed))


def checks_of(row: Mapping[str, Any]) -> Iterator[tuple[str, float, str]]:
    """Norm, eps and name of the checks of a model."""
    if failures({**row, "norm": ""}, 0) is None:
        return
    yield from (("", 0.0, check) for check in OF_MODEL)
    if row["dataset"] == "digits":
        yield from ((norm, eps, check) for norm, eps in sorted(ASSESSED) for check in OF_THREAT)


def check_row(row: Mapping[str, Any], seed: int, check: str, failed: bool) -> Row:
    """One check with a statistic that fits its verdict."""
    made = {name: row[name] for name in ("dataset", "poison", "model", "defense", "norm", "eps")}
    made |= {"seed": seed, "check": check, "total": 100, "limit": 0.0 if check in OF_MODEL else 0.01}
    if check == "transfer":
        return made | {"verdict": "not assessed", "total": 0, "note": "no images of another model were given"}
    if failed:
        found = {"value": 0.12 + seed / 100, "low": 0.07, "high": 0.2 + seed / 100, "verdict": "failed"}
        return made | found | {"note": FAILING.get(check, "another answer to the same images")}
    return made | {"value": 0.0, "low": 0.0, "high": 0.037, "verdict": "passed"}


def add_costs(rows: dict[str, list[Row]]) -> None:
    """Attacks in the order they ran, an ensemble in two parts, a point of a curve and a probe of the gate."""
    cells = {(r["dataset"], r["model"], r["defense"]): r for r in rows["summary"] if r["norm"]}
    order = [("fgsm", ""), ("autoattack", "apgd_targeted"), ("autoattack", "square"), ("pgd@eps=0.1", "")]
    for row in cells.values():
        place = {name: row[name] for name in ("dataset", "poison", "model", "defense")}
        for seed in SEEDS:
            left = 340 + seed
            for turn, (attack, member) in enumerate([*order, ("gate/noise", "")]):
                broken = left // 3
                made = {**place, "seed": seed, "attack": attack, "member": member, "norm": "linf", "eps": 0.2}
                made |= {"attacked": left, "broken": broken, "forward": left * (10 + 500 * turn)}
                fault = "model: expected logits with a gradient by the images, got none"
                blind = (row["defense"], attack, seed) == ("trades", "fgsm", 2)
                rows["costs"].append(made | {"backward": left * 10, "fault": fault if blind else ""})
                left -= broken


def add_ranks(rows: dict[str, list[Row]]) -> None:
    """Ranks of every number that is not a point of a curve: rows whose intervals overlap share theirs."""
    fields = ("dataset", "poison", "model", "attack", "norm", "eps", "metric")
    table = [row for row in rows["summary"] if not row["curve"]]
    for row in table:
        rivals = [other for other in table if all(other[name] == row[name] for name in fields)]
        better = [other for other in rivals if other["low"] > row["high"]]
        worse = [other for other in rivals if other["high"] < row["low"]]
        if row["metric"] == "asr":
            better, worse = worse, better
        if len(rivals) > 1:
            row |= {"rank_low": 1 + len(better), "rank_high": len(rivals) - len(worse)}
