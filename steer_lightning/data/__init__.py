"""Reads problems from the hub, from files or from a generator, and makes prompts from them."""

from steer_lightning.data.arithmetic import Arithmetic
from steer_lightning.data.datamodule import PromptDataModule
from steer_lightning.data.deepscaler import DeepScaleR
from steer_lightning.data.gsm8k import GSM8K
from steer_lightning.data.instructions import Instructions
from steer_lightning.data.math import Math
from steer_lightning.data.order import PromptOrder, Shuffled
from steer_lightning.data.partial_solutions import PartialSolutions
from steer_lightning.data.pass_rate import ByPassRate
from steer_lightning.data.prompts import make_prompts
from steer_lightning.data.records import Records
from steer_lightning.data.source_around import SourceAround
from steer_lightning.data.stratum import Stratum
from steer_lightning.data.svamp import SVAMP
from steer_lightning.data.templates import ChatTemplate, PlainTemplate, Template
from steer_lightning.data.token_budgets import TokenBudgets

__all__ = [
    "GSM8K",
    "SVAMP",
    "Arithmetic",
    "ByPassRate",
    "ChatTemplate",
    "DeepScaleR",
    "Instructions",
    "Math",
    "PartialSolutions",
    "PlainTemplate",
    "PromptDataModule",
    "PromptOrder",
    "Records",
    "Shuffled",
    "SourceAround",
    "Stratum",
    "Template",
    "TokenBudgets",
    "make_prompts",
]
