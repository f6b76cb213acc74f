"""Where the parts of a drawing stand."""

from itertools import combinations
from typing import Any

from matplotlib.figure import Figure as Canvas


def heads(canvas: Canvas) -> list[str]:
    """Names beside the rows, from the top."""
    return [text.get_text() for text in canvas.axes[0].get_yticklabels()]


def boxes(axes: Any) -> list[Any]:
    """Boxes of the texts around axes, in pixels: title, name of the x axis, and what stands at places in view."""
    texts = [axes.title, axes.xaxis.label]
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text.get_window_extent() for text in texts if text.get_visible() and text.get_text()]


def assert_nothing_overlaps(canvas: Canvas) -> None:
    """Legend, names, places and cells keep apart, and all of them lie inside the figure."""
    found = [legend.get_window_extent() for legend in canvas.legends]
    for axes in canvas.axes:
        found += [axes.get_window_extent(), *boxes(axes)]
    assert len(found) > 4
    for one, other in combinations(found, 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert min(width, height) < 0.5, (one, other)
    whole = canvas.bbox
    assert all(
        b.x0 >= -0.5 and b.y0 >= -0.5 and b.x1 <= whole.x1 + 0.5 and b.y1 <= whole.y1 + 0.5 for b in found
    )
