"""The section of costs: how many images each attack got, broke, and sent through the model."""

from collections.abc import Sequence

from deconfound.report.blocks import Block, column, head, section, table
from deconfound.report.figures import by_setting, grouped
from deconfound.report.inputs import Cost, Inputs
from deconfound.report.plotting import Figure
from deconfound.report.words import Order, amount, budget, label, listing, setting_label

COUNTS = {
    "attacked": ("attacked", "images"),
    "broken": ("broken", "images"),
    "forward": ("forward", "images sent"),
    "backward": ("backward", "images sent"),
}
LEAD = (
    "What each attack did, as a mean over seeds, in the order in which the attacks ran. An attack gets the images that "
    "the ones before it left standing, unless it is measured alone; so a strong attack that runs late may break few. "
    "Forward and backward count the images sent through the model, which is what an attack costs on any machine."
)


def costs(inputs: Inputs, drawn: Sequence[Figure], order: Order) -> list[Block]:
    """A table per setting: a row per defense and attack."""
    rows = [row for row in inputs.costs if reported(row)]
    if not rows:
        return []
    blocks = []
    for setting, mine in by_setting(rows, order):
        where = setting_label(setting)
        columns = [column("defense"), column("attack"), *(column(*words) for words in COUNTS.values())]
        blocks += table(
            f"{where}: what the attacks cost",
            columns,
            body(mine, order),
            folded=f"What the attacks cost: {where}",
        )
    return [section("costs", "What the attacks cost", LEAD, blocks)]


def reported(row: Cost) -> bool:
    """Is this an attack of the tables, and not a point of a curve or a probe of the trust gate?"""
    return "@" not in row.attack and not row.attack.startswith("gate/")


def body(rows: Sequence[Cost], order: Order) -> list[list[Block]]:
    """Rows of a table: the attacks of each defense in the order they ran, with means over seeds."""
    lines = []
    for _, mine in grouped(rows, lambda row: order.key("defenses", row.defense)):
        attacks: dict[tuple[str, str, str, float], list[Cost]] = {}
        for row in mine:
            attacks.setdefault((row.attack, row.member, row.norm, row.eps), []).append(row)
        for (attack, member, norm, eps), found in attacks.items():
            words = label(attack) + (f": {label(member)}" if member else "")
            means = {name: sum(getattr(row, name) for row in found) / len(found) for name in COUNTS}
            lines.append(
                [
                    head(mine[0]),
                    {"text": words, "note": budget(norm, eps), **fault(found)},
                    *({"text": amount(mean), "value": mean} for mean in means.values()),
                ]
            )
    return lines


def fault(rows: Sequence[Cost]) -> Block:
    """Why an attack could not work, if so."""
    seeds = [str(row.seed) for row in sorted(rows, key=lambda row: row.seed) if row.fault]
    if not seeds:
        return {}
    reason = next(row.fault for row in rows if row.fault)
    return {"doubt": f"Could not work in seed{'s' if seeds[1:] else ''} {listing(seeds)}: {reason}"}
