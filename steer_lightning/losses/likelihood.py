"""An objective that imitates chosen completions."""

from __future__ import annotations

from steer_lightning.errors import ConfigError
from steer_lightning.losses.base import PerToken
from steer_lightning.types import LossInputs


class Likelihood:
    """Makes whole completions likelier, each with a weight of at least 0: supervised learning.

    `gain_{i,t} = A_i * log pi(y_{i,t} | x, y_{i,<t})`, where A_i is the weight of a completion, as
    `BestOf` chooses it (RAFT, arXiv 2304.06767). The formula is that of `ScoreFunction`, but not
    the meaning. Chosen completions are targets, not samples whose gradient estimates that of the
    expected reward. So they stay targets when the policy moves, and an update may take several
    optimizer steps. `PrefixLikelihood` imitates the base in this way, without choosing.

    A negative weight is refused: the likelihood of a completion has no lower bound in nats, so that
    nothing would keep several steps from driving it down without end.
    """

    def gains(self, inputs: LossInputs) -> PerToken:
        """Returns gains (n, T), without metrics.

        Raises:
            ConfigError: If a weight is negative.
        """
        if (inputs.advantages < 0).any():
            raise ConfigError(
                "model.loss.objective",
                type(self).__name__,
                rule="needs advantages of at least 0",
                why="It imitates completions, and can't avoid any",
                fix="Set model.advantage: steer_lightning.advantages.BestOf, or use the objective "
                "ScoreFunction or Clip",
            )
        return inputs.advantages[:, None] * inputs.logprobs, {}
