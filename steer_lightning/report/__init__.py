"""Pictures and the page of a run, made from its folder alone."""

from steer_lightning.report.comparison import draw_comparison
from steer_lightning.report.curve import draw_reward_curve
from steer_lightning.report.page import write_report

__all__ = ["draw_comparison", "draw_reward_curve", "write_report"]
