"""The report of a comparison: one HTML page that needs no other file and no network.

page.py puts it together, from a section for each task (results.py, seeds.py), and sections on biases, costs and limits.
"""

from falloff.lab.report.page import report_page

__all__ = ["report_page"]
