"""The report as one HTML file: style and figures inline, no script needed, nothing loaded from a network."""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from deconfound.report.plotting import GRID, INK


def render(report: Mapping[str, Any], drawings: Mapping[str, str]) -> str:
    """HTML text of a report; `drawings` are the figures' SVG texts by name. All text is escaped."""
    environment = Environment(
        loader=PackageLoader("deconfound.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["soft"] = soft
    environment.globals["drawing"] = lambda item: Markup(
        inline(drawings[item["name"]], item["name"], item["alt"])
    )
    return environment.get_template("report.html.j2").render(report=report)


def inline(svg: str, name: str, alt: str) -> str:
    """An SVG element for a page: its own used ids, the page's colours, a text alternative."""
    used = set(re.findall(r'(?:xlink:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    own = re.sub(r"[^\w-]", "_", name)
    svg = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{own}-", svg)
    svg = svg.replace(INK, "currentColor").replace(GRID, "var(--grid)")
    size = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', svg)
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    width = f' style="max-width:{float(size[1]) * 4 / 3 * 1.12:.0f}px"' if size else ""
    words = Markup.escape(alt)
    return svg.replace("<svg", f'<svg role="img" aria-label="{words}"{width}', 1)


def soft(text: str) -> Markup:
    """Escaped text that may break after a slash, an underscore or a dot, so that long names fit a phone."""
    return Markup(re.sub(r"([/_.]|(?<=[a-z0-9])-(?=[a-z0-9]))", r"\1<wbr>", str(Markup.escape(text))))
