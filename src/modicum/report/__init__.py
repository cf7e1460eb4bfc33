"""The HTML reports, and the pictures in them.

A report is one file that needs nothing else: no network, no script, no fonts. Plots are inline SVG
that follows the reader's light or dark colours; pictures are embedded.
"""

from __future__ import annotations

from modicum.report.check import write_check_report
from modicum.report.pictures import image_grid, png
from modicum.report.plots import effect_plot, line_plot, paired_plot
from modicum.report.run import write_run_report

__all__ = [
    "effect_plot",
    "image_grid",
    "line_plot",
    "paired_plot",
    "png",
    "write_check_report",
    "write_run_report",
]
