"""The dashboard: self-contained HTML pages of a sweep, and of all runs of an outputs folder."""

from ltx2.experiment.dashboard.page import write_index_page, write_sweep_page

__all__ = ["write_index_page", "write_sweep_page"]
