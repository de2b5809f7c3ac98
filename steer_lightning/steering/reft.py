"""LoReFT, which edits the stream of a layer within a subspace of few dimensions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from steer_lightning.errors import ConfigError
from steer_lightning.steering.base import ConstantVector, Steering
from steer_lightning.steering.layers import (
    check_ascending,
    find_layers,
    parse_layers,
    shown_layers,
    stream_width,
)
from steer_lightning.steering.result_file import read_parts, refusal, write_result
from steer_lightning.steering.sites import Site, find_sites
from steer_lightning.steering.tokens import Tokens
from steer_lightning.steering.vector_hooks import HookedVectors
from steer_lightning.system.printable import one_line
from steer_lightning.system.seeds import check_seed

PARTS = ("basis", "difference", "bias")


class LoReFT(Steering):
    """Moves the stream within a subspace to where a linear map of it says (arXiv 2404.03592).

    `h <- h + R^T (W h + b - R h)`, where R (r, D) has orthonormal rows, and W (r, D) and b (r,) are
    free; each layer has its own. The rows of R are those of a trained matrix, made orthonormal one
    after another (Gram-Schmidt). Trained, and saved, is the difference W - R instead of W, since it
    is zero at the start, as b is: so the start is the base bit for bit. The functions are the same
    as with W. `L * r * (2 D + 1)` numbers are trained. With W = R, what is left is a vector in the
    subspace, R^T b.

    The paper intervenes on the first and last few tokens of the prompt; here on one of the sets of
    tokens that vectors know.

    Args:
        rank: Number r of dimensions of the subspace; at most D.
        layers: Layers to steer: `all`, a range that includes both ends, such as `"8-15"`, or an
            ascending list of 0-based indices.
        site: Place in a layer whose output is edited; see `SiteVectors`.
        tokens: Tokens to edit: all tokens, those of the prompt, those of the completion, or only
            the last token of the prompt.
        seed: Seed of the subspaces at the start.
        init_from: File of the same kind to start from; null starts from zero.
        layers_path: Dotted path of the model's decoder layers, if they are not found automatically.

    Attributes:
        layers: 0-based indices of the L steered decoder layers, ascending; available after `build`.
        width: Width D of the residual stream; available after `build`.
        num_layers: Number of decoder layers of the model; 0 before `build`.
        basis: Rows before they are made orthonormal, (L, r, D) float32 parameter.
        difference: W - R, (L, r, D) float32 parameter.
        bias: b, (L, r) float32 parameter.

    Raises:
        ConfigError: If a setting is out of range.
    """

    file_name = "reft.safetensors"
    by_token = True
    layers: tuple[int, ...]
    width: int
    basis: nn.Parameter
    difference: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self,
        rank: int = 4,
        layers: str | list[int] = "all",
        site: Site = "layer_output",
        tokens: Tokens = "all",
        seed: int = 0,
        init_from: str | None = None,
        layers_path: str | None = None,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ConfigError("model.steering.rank", rank, rule="must be at least 1")
        check_seed("model.steering.seed", seed)
        check_ascending(layers)
        if init_from is not None and not Path(init_from).is_file():
            raise ConfigError("model.steering.init_from", init_from, rule="there is no such file")
        self.rank, self.chosen, self.site, self.tokens = rank, layers, site, tokens
        self.seed, self.init_from, self.layers_path = seed, init_from, layers_path
        self.metadata = {}
        self.num_layers = 0
        self._held: list[torch.Tensor] = []

    # ---- making

    def build(self, model: nn.Module) -> None:
        """Creates the parameters, or checks that they fit; see `Steering.build`."""
        width, blocks = stream_width(model), find_layers(model, self.layers_path)
        found = {"width": width, "decoder layers": len(blocks)}
        if self.num_layers:
            self._check_fit(type(model).__name__, found)
        else:
            self._create(width, len(blocks))
            if self.init_from is not None:
                self._start_from(Path(self.init_from), type(model).__name__)
        find_sites(blocks, self.layers, self.site)

    def _create(self, width: int, num_layers: int) -> None:
        self.layers = parse_layers(self.chosen, num_layers)
        if self.rank > width:
            rule = f"must be at most {width}, the width of the stream"
            raise ConfigError("model.steering.rank", self.rank, rule=rule)
        self.width, self.num_layers = width, num_layers
        shape = (len(self.layers), self.rank, width)
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(shape, generator=generator)
        self.basis = nn.Parameter(orthonormal(drawn).contiguous())
        self.difference = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[:2]))

    def _check_fit(self, model: str, found: dict[str, int]) -> None:
        ours = {"width": self.width, "decoder layers": self.num_layers}
        for what, value in ours.items():
            if value != found[what]:
                raise ConfigError(
                    "LoReFT",
                    f"{what} {value}",
                    rule=f"the model.base {model} has {what} {found[what]}",
                    fix="Use it with the model on which it was trained",
                )

    def _start_from(self, path: Path, model: str) -> None:
        start = load_reft(path)
        start._check_fit(model, {"width": self.width, "decoder layers": self.num_layers})
        for key in ("rank", "layers", "site", "tokens"):
            if getattr(start, key) != getattr(self, key):
                raise ConfigError(
                    f"model.steering.{key}",
                    getattr(self, key),
                    rule=f"model.steering.init_from = {str(path)!r} has {getattr(start, key)!r}",
                    fix="Set it to that value, or set init_from: null",
                )
        with torch.no_grad():
            for part in PARTS:
                getattr(self, part).copy_(getattr(start, part))

    # ---- using: what the hooks of vectors ask for

    @property
    def first_layer(self) -> int:
        """Index of the first steered layer; see `Steering.first_layer`."""
        return self.layers[0]

    def attach(self, model: nn.Module, scale: float = 1.0) -> HookedReft:
        """Attaches the edits to a model; see `Steering.attach`."""
        return HookedReft(model, self, scale)

    def plain(self, row: int, scale: float = 1.0) -> torch.Tensor:
        """Returns the factor on the edit of a row, (D,) float32."""
        return self.bias.new_full((self.width,), scale)

    def gate(self, row: int, stream: torch.Tensor) -> torch.Tensor:
        """Returns the edit of each token of a stream, (rows, T, D), which `plain` multiplies."""
        rotation = self._held[row] if self._held else self.rotation(row)
        towards = stream.float() @ self.difference[row].T + self.bias[row]
        return (towards @ rotation).to(stream.dtype)

    def rotation(self, row: int) -> torch.Tensor:
        """Returns R of a row, (r, D) with orthonormal rows; differentiable."""
        return orthonormal(self.basis[row])

    @contextmanager
    def held(self) -> Iterator[None]:
        """Computes R once for the block, in which the parameters do not change."""
        with torch.no_grad():
            self._held = [self.rotation(row) for row in range(len(self.layers))]
        try:
            yield
        finally:
            self._held = []

    # ---- reporting and the file

    def describe(self) -> str:
        """Describes the trained numbers; see `Steering.describe`."""
        place = "" if self.site == "layer_output" else f" at {self.site}"
        place += "" if self.tokens == "all" else f", {self.tokens} tokens only"
        return f"LoReFT of rank {self.rank} in layers {shown_layers(self.layers)}{place}"

    def facts(self) -> dict[str, Any]:
        """Returns the settings of a checkpoint; see `Steering.facts`."""
        return {
            "model.steering.rank": self.rank,
            "model.steering.layers": list(self.layers),
            "model.steering.site": self.site,
            "model.steering.tokens": self.tokens,
            "number of decoder layers": self.num_layers,
            "width": self.width,
        }

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """Returns the norm of all W - R and b together."""
        return {"norm": nn.utils.get_total_norm([self.difference, self.bias]).item()}

    def save(
        self, path: Path, *, base_model: str, revision: str | None = None, step: int | None = None
    ) -> None:
        """Saves the three parameters and their places; `load_steering` reads them."""
        metadata: dict[str, str | int | None] = {
            "format_version": "2",
            "kind": type(self).__name__,
            "base_model": base_model,
            "revision": revision,
            "step": step,
            "site": self.site,
            "tokens": self.tokens,
            "num_layers": self.num_layers,
            "width": self.width,
            "layers": json.dumps(list(self.layers)),
            **self.base_facts,
        }
        write_result(path, {part: getattr(self, part) for part in PARTS}, metadata)


class HookedReft(HookedVectors):
    """The hooks of a `LoReFT`, which compute each R once while nothing changes."""

    _vectors: LoReFT

    @contextmanager
    def constant(self) -> Iterator[Sequence[ConstantVector]]:
        """Computes every R once for the block; see `Attachment.constant`."""
        with super().constant() as vectors, self._vectors.held():
            yield vectors


def orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Makes the rows of matrices (..., r, D) orthonormal, one after another (Gram-Schmidt).

    It is computed by a QR decomposition with a positive diagonal, which is unique if the rows are
    independent, so that the result is the same on every machine, up to rounding.
    """
    found, triangle = torch.linalg.qr(rows.transpose(-1, -2))
    signs = triangle.diagonal(dim1=-2, dim2=-1).sgn()
    signed: torch.Tensor = found * signs.unsqueeze(-2)
    return signed.transpose(-1, -2)


def load_reft(path: Path) -> LoReFT:
    """Loads a file that `LoReFT.save` has written.

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file is of another kind or damaged.
    """
    parts = read_parts(path, "LoReFT", PARTS)
    metadata, tensors, layers = parts.metadata, parts.tensors, parts.layers
    try:
        width, site, tokens = int(metadata["width"]), metadata["site"], metadata["tokens"]
    except (KeyError, ValueError) as error:
        raise refusal(path, f"has no usable places in its metadata ({one_line(error)})") from error
    if not (site in get_args(Site) and tokens in get_args(Tokens) and width > 0):
        raise refusal(path, f"has width {width}, site {site!r} and tokens {tokens!r}")
    shape = (len(layers), tensors["bias"].shape[-1], width) if tensors["bias"].dim() == 2 else ()
    shapes = {"basis": shape, "difference": shape, "bias": shape[:2]}
    odd = [part for part in PARTS if tuple(tensors[part].shape) != shapes[part]]
    if odd or not shape or shape[1] < 1:
        raise refusal(path, f"has tensors of other shapes than its metadata: {odd or PARTS}")
    found = LoReFT(shape[1], layers, cast("Site", site), cast("Tokens", tokens))
    found._create(width, parts.num_layers)
    with torch.no_grad():
        for part in PARTS:
            getattr(found, part).copy_(tensors[part])
    found.metadata = metadata
    return found.requires_grad_(False)
