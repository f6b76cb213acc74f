"""Ten claims judged over twelve poisons each, with verdicts known beforehand."""

from pathlib import Path
from typing import Any

from synthetic_experiment import Experiment

POISONS = [
    *("adap_blend", "badnets", "blend", "bpp", "dynamic", "ftrojan"),
    *("label_consistent", "sig", "tact", "trojan", "wanet", "zebra"),
]
CLAIMS = [f"cbd-h{number}-does" for number in range(10)]
GATES = {
    "premise not met": "passed; premise works_and_held held in 0 of 3 seeds",
    "gate not passed": "failed (cbd failed in 2 of 3 seeds: black box)",
}
CYCLE = ("supported", "contradicted", "inconclusive", "premise not met", "gate not passed")
HELD = {
    "published": "ASR 1.06 % (CIFAR-10)",
    "published_source": "Table 1",
    "property": 3,
    "note": "Half of it.",
}


def verdict(claim: int, poison: int) -> str:
    """The verdict of a claim on a poison: in turn, shifted by one from claim to claim."""
    return CYCLE[(claim + poison) % len(CYCLE)]


def judged(number: int, poison: str, said: str, **more: Any) -> dict[str, Any]:
    """A row of claims.csv."""
    place = {"dataset": "scenes", "poison": poison, "model": "cnn", "treatment": "cbd", "control": "standard"}
    at = POISONS.index(poison)
    return {
        "id": CLAIMS[number],
        "paper": "CBD",
        "statement": f"The backdoor falls by {10 * number} points.",
        **place,
        "metric": "asr",
        "attack": poison,
        "effect": -0.01 * (at + 1),
        "low": -0.01 * (at + 1) - 0.1,
        "high": -0.01 * (at + 1) + 0.1,
        "margin": -0.1 * number,
        "direction": "below",
        "verdict": said,
        "gate": GATES.get(said, "passed"),
        "evidence": f"scenes/{poison}/cnn/cbd; scenes/clean/cnn/standard",
        "seeds": "3",
        **HELD,
        **more,
    }


def crowd(root: Path, poisons: int = 12) -> Experiment:
    """Ten claims on so many poisons, one claim on a single poison and two that were not run."""
    made = Experiment(root)
    for number in range(len(CLAIMS)):
        for at, poison in enumerate(POISONS[:poisons]):
            made.claim(**judged(number, poison, verdict(number, at)))
    made.claim(**judged(0, "sig", "supported") | {"id": "cbd-alone", "statement": "One cell only."})
    for name in ("cbd-absent", "cbd-missing"):
        made.claim(
            id=name, paper="CBD", statement="Nobody looked.", metric="asr", verdict="not run at this scale"
        )
    return made
