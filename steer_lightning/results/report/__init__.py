"""The pictures and pages of runs, made only from their folders."""

from steer_lightning.results.report.budget import draw_budget
from steer_lightning.results.report.comparison import draw_comparison
from steer_lightning.results.report.curve import draw_reward_curve
from steer_lightning.results.report.dose import draw_dose, has_doses
from steer_lightning.results.report.drawing import drawn
from steer_lightning.results.report.inside import draw_inside
from steer_lightning.results.report.lens import draw_between, draw_lens
from steer_lightning.results.report.page import write_comparison, write_report, write_sweep
from steer_lightning.results.report.pass_curve import draw_pass_curve

__all__ = [
    "draw_between",
    "draw_budget",
    "draw_comparison",
    "draw_dose",
    "draw_inside",
    "draw_lens",
    "draw_pass_curve",
    "draw_reward_curve",
    "drawn",
    "has_doses",
    "write_comparison",
    "write_report",
    "write_sweep",
]
