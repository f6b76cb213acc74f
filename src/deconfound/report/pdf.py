"""The report as a PDF, set by Typst from the same report.json and the same figures."""

import json
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any


def render(report: Mapping[str, Any], drawings: Mapping[str, str]) -> bytes:
    """PDF bytes of a report; the same report gives the same bytes on every machine.

    Only fonts that come with Typst and matplotlib are used. Raises typst.TypstError with the reason.
    """
    import matplotlib
    import typst

    template = files("deconfound.report").joinpath("templates", "report.typ").read_text(encoding="utf-8")
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "figures").mkdir()
        for name, svg in drawings.items():
            (root / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
        (root / "report.json").write_text(json.dumps(report, ensure_ascii=False), encoding="utf-8")
        (root / "report.typ").write_text(template, encoding="utf-8")
        made = typst.compile(root / "report.typ", root=root, font_paths=[fonts], ignore_system_fonts=True)
    assert isinstance(made, bytes)
    return made
