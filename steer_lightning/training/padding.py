"""The plain way to read micro-batches: padded rows, for models that can't read packed rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from steer_lightning.model.head import TokenStates, token_states_of_logits
from steer_lightning.model.policy import Policy
from steer_lightning.training.batch import MicroBatch


class BlockForward:
    """Reads the rows of micro-batches in the blocks of `ExactEngine`; see `Forward`.

    Args:
        policy: Policy that reads them.
    """

    def __init__(self, policy: Policy) -> None:
        self._padded = PaddedForward(policy)

    def passes(self) -> AbstractContextManager[None]:
        """Returns an empty context; the model's own forward pass needs no preparation."""
        return self._padded.passes()

    def prepare(self, rows: MicroBatch) -> MicroBatch:
        """Returns the rows unchanged, since they are already padded."""
        return rows

    @contextmanager
    def token_states(
        self, prepared: MicroBatch, temperature: float, with_entropy: bool = False
    ) -> Iterator[TokenStates]:
        """Reads the block of a micro-batch; see `Forward.token_states`."""
        block = prepared.block or prepared
        chosen = torch.isin(block.rows, prepared.rows).to(self._padded.device)
        with self._padded.token_states(block, temperature, with_entropy) as found:
            entropy = None if found.entropy is None else found.entropy[chosen]
            yield TokenStates(logprobs=found.logprobs[chosen], entropy=entropy)


class PaddedForward:
    """Reads micro-batches as padded rows; see `Forward`.

    Args:
        policy: Policy that reads them.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    @property
    def device(self) -> torch.device:
        """Device of the policy."""
        return self._policy.device

    def passes(self) -> AbstractContextManager[None]:
        """Returns an empty context; the model's own forward pass needs no preparation."""
        return nullcontext()

    def prepare(self, rows: MicroBatch) -> MicroBatch:
        """Returns the rows unchanged, since they are already padded."""
        return rows

    @contextmanager
    def token_states(
        self, prepared: MicroBatch, temperature: float, with_entropy: bool = False
    ) -> Iterator[TokenStates]:
        """Reads a micro-batch; see `Forward.token_states`."""
        device = self._policy.device
        tokens = prepared.completion_ids.to(device)
        ids, mask = prepared.ids.to(device), prepared.mask.to(device)
        logits = self._policy.logits(ids, mask, tokens.shape[1] + 1)[:, :-1]
        # one row at a time, because the whole batch in float32 would be another copy of the logits
        found = [
            token_states_of_logits(row, chosen, temperature, with_entropy)
            for row, chosen in zip(logits, tokens, strict=True)
        ]
        entropy = [row.entropy for row in found if row.entropy is not None]
        yield TokenStates(
            logprobs=torch.stack([row.logprobs for row in found]),
            entropy=torch.stack(entropy) if entropy else None,
        )
