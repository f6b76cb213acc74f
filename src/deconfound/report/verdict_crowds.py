"""Which verdicts are of the same claim, and where a claim was judged in so many cells that they stand together."""

from collections.abc import Sequence

from deconfound.report.inputs import Claim

NOT_RUN = "not run at this scale"
FEW = 3  # cells of a claim that have a card each
Group = Sequence[Claim]


def gathered(claims: Sequence[Claim]) -> list[list[Claim]]:
    """The verdicts of each claim that was judged anywhere, in the order in which the claims come first."""
    groups: dict[tuple[str, ...], list[Claim]] = {}
    for claim in claims:
        if claim.verdict != NOT_RUN or claim.dataset:
            said_of = claim.paper, claim.id, claim.statement, claim.published, claim.published_source
            compared = claim.treatment, claim.control, claim.metric, claim.direction, str(claim.margin)
            groups.setdefault((*said_of, *compared), []).append(claim)
    return list(groups.values())


def is_crowd(group: Group) -> bool:
    """Was the claim judged in more cells than have a card each?"""
    return len(group) > FEW


def placed(groups: Sequence[Group]) -> list[list[str]]:
    """The place of every verdict in both renderings, group by group."""
    return [
        [
            f"claim-{number}-{group[0].id}" + (f"-{line}" if group[1:] else "")
            for line in range(1, len(group) + 1)
        ]
        for number, group in enumerate(groups, 1)
    ]
