"""The section of the trust gate: which attacks are believable, on which model, and what each check found."""

from collections.abc import Sequence

from deconfound.report.blocks import Block, column, facts, head, section, table, text
from deconfound.report.figures import by_setting, grouped
from deconfound.report.gates import CHECKS, FAILED, OPEN, PASSED
from deconfound.report.inputs import Cell, Inputs, Trust
from deconfound.report.matrix import NORM_ORDER
from deconfound.report.names import DAGGER
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, budget, count, interval, label, listing, number, setting_label

Threat = tuple[str, float]
SEVERITY = {PASSED: 0, OPEN: 1, FAILED: 2}
LONG = 60  # models from which the table of them is folded
ITSELF = "the model itself"
LEAD = (
    "A robust accuracy is only as good as the attacks behind it: a weak attack makes any model look robust. So the "
    "attacks are tested too. Each check measures, on the first test images, a share (in per cent) that an honest "
    "evaluation keeps at or below a limit; it fails when its whole 95 % interval lies above the limit, or, where the "
    f"limit is 0, as soon as one image is concerned. Numbers behind a failed check carry a dagger ({DAGGER}) wherever "
    "they stand, and cannot decide a claim."
)


def trust(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """What the gate says of every defense, what each check means, and the statistics."""
    if not inputs.trust:
        return []
    blocks: list[Block] = []
    for _, mine in grouped(inputs.trust, lambda row: order.key("datasets", row.dataset)):
        blocks += overview(mine, [row for row in inputs.summary if row.dataset == mine[0].dataset], order)
    blocks += explanations(inputs.trust)
    for setting, mine in by_setting(inputs.trust, order):
        blocks += statistics(setting, mine, order)
    return [section("trust", "Trust gate", LEAD, blocks)]


def overview(rows: Sequence[Trust], measured: Sequence[Cell], order: Order) -> list[Block]:
    """A row per defense of a dataset, a column per threat model: passed, or what failed in how many seeds."""
    threats = threats_of(rows)
    columns = [column("defense"), *(column(threat_label(at)) for at in threats)]
    body = []
    cells: list[Cell] = [*rows, *measured]
    for _, mine in grouped(cells, lambda row: order.cell(row.setting, row.defense)):
        found = [row for row in mine if isinstance(row, Trust)]
        seen = [[row for row in found if (row.norm, row.eps) == at] for at in threats]
        body.append([head(mine[0], poison=len({row.poison for row in cells}) > 1), *map(outcome, seen)])
    caption = f"{label(rows[0].dataset)}: what the trust gate says of each model"
    return table(caption, columns, body, folded=caption if len(body) > LONG else "")


def outcome(rows: Sequence[Trust]) -> Block:
    """One verdict over the checks and seeds of a model under a threat model."""
    if not rows:  # not attacked within this budget
        return {"text": "–"}
    seeds = len({row.seed for row in rows})
    worst = {name: worst_of(mine) for name, mine in by_check(rows)}
    failed = [name for name, row in worst.items() if row.verdict == FAILED]
    unknown = [name for name, row in worst.items() if row.verdict == OPEN]
    if failed:
        notes = [f"{label(name)}: {in_seeds(rows, name)}" for name in failed]
        return {"text": f"{FAILED} {DAGGER}", "note": "; ".join(notes), "failed": True, "wrap": True}
    if len(unknown) == len(worst):
        return {"text": OPEN}
    without = f"; {listing(map(label, unknown))} {OPEN}" if unknown else ""
    known = count(len(worst) - len(unknown), "check")
    return {"text": PASSED, "note": f"{known}, {count(seeds, 'seed')}{without}", "wrap": True}


def explanations(rows: Sequence[Trust]) -> list[Block]:
    """What the failed checks mean in sight, what the others measure folded."""
    names = [name for name, _ in by_check(rows)]
    failed = [name for name in names if any(row.check == name and row.verdict == FAILED for row in rows)]
    rest = [name for name in names if name not in failed]
    blocks = []
    if failed:
        blocks += [text("What the failed checks mean:"), facts([(label(n), [meaning(n)]) for n in failed])]
    if rest:
        which = "the other checks measure" if failed else "each check measures"
        blocks.append(facts([(label(n), [meaning(n)]) for n in rest], folded=f"What {which}"))
    return blocks


def meaning(check: str) -> str:
    """What a check measures and why its failure matters; empty for a check that nobody described."""
    return CHECKS.get(check, "")


def statistics(setting: tuple[str, str, str], rows: Sequence[Trust], order: Order) -> list[Block]:
    """A row per check and threat model, a column per defense: the worst seed's verdict with its statistic."""
    defenses = sorted({row.defense for row in rows}, key=lambda name: order.key("defenses", name))
    body = []
    for at in threats_of(rows):
        within = [row for row in rows if (row.norm, row.eps) == at]
        for name, mine in by_check(within):
            limits = sorted({row.limit for row in mine if row.verdict != OPEN})
            line: list[Block] = [
                {"text": label(name), "note": " · ".join([threat_label(at), *limit_note(limits)])}
            ]
            for defense in defenses:
                own = [row for row in mine if row.defense == defense]
                line.append(statistic(own, name_limit=len(limits) > 1))
            body.append(line)
    columns = [column("check", "threat model · limit"), *(column(label(name)) for name in defenses)]
    where = setting_label(setting)
    return table(
        f"{where}: the worst seed of each check, in per cent",
        columns,
        body,
        folded=f"Statistics of every check: {where}",
        notes=unknowns(rows),
    )


def limit_note(limits: Sequence[float]) -> list[str]:
    """The limit of a row whose cells share it."""
    return [f"limit\N{NO-BREAK SPACE}{number(limits[0])}"] if len(limits) == 1 else []


def statistic(rows: Sequence[Trust], *, name_limit: bool) -> Block:
    """The worst seed's verdict, its statistic and interval."""
    if not rows:
        return {"text": "–"}
    worst = worst_of(rows)
    if worst.verdict == OPEN:
        return {"text": OPEN}
    measured = f"{number(worst.value)} ({interval(worst.low, worst.high)})"
    limit = f", limit {number(worst.limit)}" if name_limit else ""
    values = {"value": worst.value, "low": worst.low, "high": worst.high, "limit": worst.limit}
    if worst.verdict != FAILED:
        return {"text": PASSED, "note": measured + limit, **values}
    words = (
        f"{label(worst.check)}, {threat_label((worst.norm, worst.eps))}: {worst.note or 'above the limit'}"
    )
    return {
        "text": FAILED,
        "note": f"{measured}{limit}, {in_seeds(rows, worst.check)}",
        "doubt": words[0].upper() + words[1:],
        "failed": True,
        **values,
    }


def unknowns(rows: Sequence[Trust]) -> list[str]:
    """Why a check was not assessed, once per reason."""
    reasons = {(row.check, row.note) for row in rows if row.verdict == OPEN and row.note}
    return [f"{label(check).capitalize()} {OPEN}: {note}." for check, note in sorted(reasons)]


def worst_of(rows: Sequence[Trust]) -> Trust:
    """The row whose verdict is worst and, among those, whose statistic is largest."""
    return max(rows, key=lambda row: (SEVERITY.get(row.verdict, 1), row.value == row.value and row.value))


def in_seeds(rows: Sequence[Trust], check: str) -> str:
    """'2 of 3 seeds': in how many a check failed."""
    mine = [row for row in rows if row.check == check]
    return f"{sum(row.verdict == FAILED for row in mine)} of {count(len(mine), 'seed')}"


def by_check(rows: Sequence[Trust]) -> list[tuple[str, list[Trust]]]:
    """Rows by check, in the order in which the checks are explained; others follow."""
    places = {name: place for place, name in enumerate(CHECKS)}
    found = grouped(rows, lambda row: (places.get(row.check, len(places)), row.check))
    return [(name, mine) for (_, name), mine in found]


def threats_of(rows: Sequence[Trust]) -> list[Threat]:
    """Threat models of some rows, the model itself first."""
    return sorted({(row.norm, row.eps) for row in rows}, key=lambda at: (NORM_ORDER.get(at[0], 9), at))


def threat_label(at: Threat) -> str:
    """'L∞ 0.2', or the model itself."""
    return budget(*at) if at[0] else ITSELF
