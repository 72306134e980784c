"""The picture of growth: what an order and a read cost with so many orders stored, to what they cost with few."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from statistics import median

BAR = 1.3
Series = Mapping[str, Mapping[int, Sequence[float]]]


def plot(orders: Series, reads: Series) -> bytes:
    """Return a PNG with a panel for orders and one for reads: median ratios by orders stored, and their spread."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(9.6, 3.6), sharey=True, layout="constrained")
    for panel, title, series in zip(panels, ("an order", "a read"), (orders, reads), strict=True):
        for number, ((name, by_size), marker) in enumerate(zip(series.items(), "os^v", strict=False)):
            middle = [median(values) for values in by_size.values()]
            below = [m - min(values) for m, values in zip(middle, by_size.values(), strict=True)]
            above = [max(values) - m for m, values in zip(middle, by_size.values(), strict=True)]
            beside = [size * 1.15**number for size in by_size]  # or the spreads would hide each other
            panel.errorbar(beside, middle, [below, above], label=name, marker=marker, capsize=3, linewidth=1.5)
        panel.axhline(1, color="0.6", linewidth=0.8)
        panel.set(xscale="log", title=f"Cost of {title}", xlabel="orders stored", ylim=(0, 2))
        panel.legend(loc="lower left", frameon=False)
    panels[0].axhline(BAR, color="firebrick", linewidth=0.8, linestyle="--")
    panels[0].annotate("the bar", (panels[0].get_xlim()[0] * 1.2, BAR + 0.03), color="firebrick")
    panels[0].set_ylabel("to the cost with 1,000 stored")
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=80, metadata={"Software": None})
    pyplot.close(figure)
    return picture.getvalue()
