"""The layout of every kind of interpretation. One that is missing is shown in a plain table; none is dropped."""

from collections.abc import Mapping

from deconfound.report.interpretation.kinds_causes import CAUSE_KINDS
from deconfound.report.interpretation.kinds_forensics import FORENSIC_KINDS
from deconfound.report.interpretation.kinds_maps import MAP_KINDS
from deconfound.report.interpretation.kinds_models import MODEL_KINDS
from deconfound.report.interpretation.kinds_trust import TRUST_KINDS
from deconfound.report.interpretation.layouts import Layout, fallback

LAYOUTS: Mapping[str, Layout] = {**MAP_KINDS, **TRUST_KINDS, **MODEL_KINDS, **FORENSIC_KINDS, **CAUSE_KINDS}


def layout_of(kind: str) -> Layout:
    """The layout of a kind, known or not."""
    return LAYOUTS.get(kind) or fallback(kind)
