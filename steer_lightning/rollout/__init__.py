"""The rollout engines, which answer prompts with completions of the current policy."""

from steer_lightning.rollout.completions import completion_of, completions_of
from steer_lightning.rollout.decode_engine import DecodeEngine
from steer_lightning.rollout.engine import RolloutEngine
from steer_lightning.rollout.generate_engine import GenerateEngine
from steer_lightning.rollout.sampling import Sampling
from steer_lightning.rollout.vllm_engine import VLLMEngine

__all__ = [
    "DecodeEngine",
    "GenerateEngine",
    "RolloutEngine",
    "Sampling",
    "VLLMEngine",
    "completion_of",
    "completions_of",
]
