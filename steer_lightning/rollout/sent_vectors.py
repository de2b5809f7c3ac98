"""The vectors of a policy in the form in which they are sent to servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save

from steer_lightning.errors import ConfigError
from steer_lightning.model.policy import Policy
from steer_lightning.rollout.server_link import ServerLink
from steer_lightning.serving.rollout_server import STEERABLE, version_of
from steer_lightning.steering import Steering
from steer_lightning.steering.site_vectors import SiteVectors

INSTEAD = "Set model.engine: steer_lightning.rollout.DecodeEngine, which can"


class SentVectors:
    """The vectors of all decoder layers, in the data type of the base.

    Args:
        rows: Vectors (D,) of the steered layers, by layer, with the policy's factor.
        num_layers: Number of decoder layers.
        width: Width D of the residual stream.
        dtype: Data type of the base.

    Attributes:
        version: Version of the vectors, see `rollout_server.version_of`.
    """

    def __init__(
        self, rows: Mapping[int, torch.Tensor], num_layers: int, width: int, dtype: torch.dtype
    ) -> None:
        zero = torch.zeros(width, dtype=dtype)
        plain = {k: rows[k].detach().to(zero) if k in rows else zero for k in range(num_layers)}
        self._rows = {k: row.clone() for k, row in plain.items()}
        self._bytes = {k: row.view(torch.uint8).numpy().tobytes() for k, row in plain.items()}
        self.version = version_of(self._bytes)

    def send(self, link: ServerLink) -> int:
        """Sends the vectors that a server does not have yet; returns the number of bytes sent.

        Raises:
            LostServer: If the server does not answer.
        """
        if link.version == self.version:
            return 0
        packed = self._packed(k for k, told in link.vectors.items() if told != self._bytes[k])
        sent = len(packed)
        if not link.version or not link.change(packed, since=link.version, to=self.version):
            packed = self._packed(self._rows)  # somebody else has changed the others
            sent += len(packed)
            if not link.change(packed, since="", to=self.version):
                raise RuntimeError(
                    f"the rollout server at {link.address} has other vectors than were sent: its "
                    "memory is damaged, or its version of rollout_server.py is another one"
                )
        link.version, link.vectors = self.version, self._bytes
        return sent

    def _packed(self, layers: Any) -> bytes:
        content: bytes = save({str(k): self._rows[k] for k in layers})
        return content


def vectors_of(policy: Policy) -> SentVectors:
    """Returns the vectors that a policy adds now, with its factor and without layers left out.

    Raises:
        ConfigError: If the policy steers in a way that servers can't.
    """
    check_sendable(policy.steering)
    index = {id(layer): k for k, layer in enumerate(policy.layers)}
    with policy.attachment.constant() as constant:
        rows = {index[id(vector.layer)]: vector.vector for vector in constant}
    config = policy.model.config.get_text_config()
    return SentVectors(rows, len(index), config.hidden_size, policy.model.dtype)


def check_sendable(steering: Steering) -> None:
    """Raises a ConfigError if a server can't steer this way."""
    if not isinstance(steering, SiteVectors) or steering.by_token:
        raise ConfigError(
            "model.steering",
            type(steering).__name__,
            rule="can't be sent to VLLMEngine",
            why="Its servers add one vector to the output of each layer, for all tokens alike",
            fix=f"Train SteeringVectors. {INSTEAD} sample it",
        )
    for key, needed in (("site", "layer_output"), ("tokens", "all")):
        value = getattr(steering, key)
        if value != needed:
            raise ConfigError(
                f"model.steering.{key}",
                value,
                rule=f"must be {needed} with VLLMEngine",
                why="Its servers add one vector to the output of each layer, for all tokens alike",
                fix=INSTEAD,
            )


def check_steerable(policy: Policy) -> None:
    """Raises a ConfigError if a server can't steer the base of a policy; reads no weights."""
    names = getattr(policy.model_config, "architectures", None) or ["unknown"]
    if names[0] not in STEERABLE:
        raise ConfigError(
            "model.base",
            policy.base,
            rule=f"VLLMEngine can't steer {names[0]}",
            why=f"It knows the layers of {', '.join(STEERABLE)}",
            fix=INSTEAD,
        )
