"""The pictures and the page of a run, made from its folder alone."""

from steer_lightning.results.report.comparison import draw_comparison
from steer_lightning.results.report.curve import draw_reward_curve
from steer_lightning.results.report.drawing import drawn
from steer_lightning.results.report.lens import draw_between, draw_lens
from steer_lightning.results.report.page import write_report

__all__ = [
    "draw_between",
    "draw_comparison",
    "draw_lens",
    "draw_reward_curve",
    "drawn",
    "write_report",
]
