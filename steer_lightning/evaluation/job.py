"""The evaluation job: one loaded model, several arms and benchmarks, from settings to a table."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from steer_lightning.data import ChatTemplate, Template, make_prompts
from steer_lightning.data.completion_text import tell_of_endings
from steer_lightning.data.templates import check_template
from steer_lightning.errors import ConfigError, own_keys
from steer_lightning.evaluation.answering import answer
from steer_lightning.evaluation.arms import (
    OWN_KEYS,
    Arm,
    base_of,
    check_fit,
    check_quantization,
    check_scales,
    further_facts,
    load_files,
    make_arms,
)
from steer_lightning.evaluation.base_sampling import BaseSampling
from steer_lightning.evaluation.budget import Budget, check_budgets, most_tokens_by_budget
from steer_lightning.evaluation.cache_key import base_facts, hash_prompts, plug_in_facts
from steer_lightning.evaluation.capability import capability
from steer_lightning.evaluation.over_scales import check_over_scales, check_samples, over_scales
from steer_lightning.evaluation.refinement import Refinement, check_refinements
from steer_lightning.evaluation.refinement_cost import refinement_records
from steer_lightning.evaluation.results import Voting, figures
from steer_lightning.evaluation.runner import check_counts, sampling_for
from steer_lightning.evaluation.side_effects import SHIPPED, SideEffects
from steer_lightning.evaluation.store import VERIFIER, Row, Store, read_rows, row_of
from steer_lightning.evaluation.strata import check_strata, in_strata, num_measured
from steer_lightning.evaluation.truncation import Truncation, check_truncations
from steer_lightning.evaluation.verdicts import (
    judges_of,
    tell_of_missing,
    tell_of_unstored,
    verdicts_of,
    verified_anew,
)
from steer_lightning.model.policy import Policy
from steer_lightning.model.quantization import Quantization
from steer_lightning.rewards import MathReward, Reward, RewardPool, RewardSum
from steer_lightning.rollout import DecodeEngine, RolloutEngine, Sampling
from steer_lightning.rollout.completions import longest_text_of
from steer_lightning.steering import find_result
from steer_lightning.system.collectives import gather_objects, rank, world_size
from steer_lightning.system.printable import one_line
from steer_lightning.system.run_files import EVALUATION
from steer_lightning.system.seeds import check_seed
from steer_lightning.types import Prompt, Source

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Batch:
    """A batch of problems of one benchmark for one arm."""

    arm: int
    benchmark: str
    number: int
    prompts: list[Prompt]


class Evaluation:
    """Answers benchmarks with the base and with the steered base, and compares them.

    All arms draw the same random numbers and answer the same problems, so that they differ only by
    the vectors.

    Args:
        benchmarks: Sources of problems by name.
        vectors: Result of a run, of any kind: its file, or the folder of the run; or a list of
            these. Null evaluates only the base.
        base: Base model: hub id, local folder or `quickstart`; null takes the one that the files
            name.
        template: Template that turns problems into prompts.
        sampling: Settings for answering the problems; `group_size` is the number of samples for
            benchmarks that set none of their own (AIME and AMC set 32).
        base_sampling: Settings with which only the base answers, such as greedily; what is not set
            is taken from `sampling`.
        num_samples: Number of samples of each problem, for all benchmarks; null leaves it to the
            benchmarks.
        scales: Factors by which the vectors or other changes are multiplied, with an arm for each.
        leave_out_layers: Layers of plain vectors; each is left out once, in an arm of its own.
            `each` takes every steered layer.
        budgets: Budgets of thinking by name; each arm answers once more within each of them.
        refinements: Refinements by gradients by name; each arm answers once more by each of them.
        truncations: Truncations of the base's MLP weights to a low rank, by name; each arm answers
            once more with each of them.
        vote_over_scales: Whether to add an arm for each result whose samples are taken from all
            `scales` in turn, so that they vote over scales.
        pass_at: Numbers k for which to compute pass@k; null takes the number of samples. Numbers
            above a benchmark's number of samples are left out. With several k, the curves of base
            and arms are compared: where they cross, and which problems only one of them solves.
        strata: Bounds, such as `[0.25, 0.75]`, between strata of problems by the base's pass rate.
            Every metric is also measured for each stratum, see `in_strata`; no bounds, no strata.
        verifier: Reward that decides which answers are right. Answers vote (maj@k) if it is a
            `MathReward`.
        reward_pool: Pool of processes that verify.
        engine: Engine that answers prompts.
        output: Folder of the results; null takes `evaluation` beside the first file.
        overwrite: Whether to delete an earlier evaluation in that folder.
        rescore: Whether to verify the completions of a finished evaluation again, without loading
            a model.
        batch_size: Number of problems to answer at once; an interrupted evaluation continues after
            the last complete batch.
        neutral_text: Text file on which to measure what else the vectors change; `shipped` takes a
            text that comes with the package, and null measures nothing.
        max_prompt_tokens: Largest number of tokens in a prompt; longer prompts are dropped and
            counted.
        seed: Seed of the samples.
        device: Device of the model; `auto` takes a GPU if there is one.
        dtype: Dtype of the base.
        quantization: Settings for keeping the base in 4 or 8 bits; null keeps it as it is.
        revision: Revision of the base on the hub.
        trust_remote_code: Whether to run code that comes with the base; `base` must then be given.

    Raises:
        ConfigError: If a setting is out of range, a file is damaged, or the base is not known.
    """

    def __init__(
        self,
        benchmarks: dict[str, Source],
        vectors: str | list[str] | None = None,
        base: str | None = None,
        template: Template | None = None,
        sampling: Sampling = Sampling(group_size=1),  # noqa: B008  # frozen
        base_sampling: BaseSampling | None = None,
        num_samples: int | None = None,
        scales: list[float] = [1.0],  # noqa: B006  # never changed; a list for jsonargparse
        leave_out_layers: list[int] | Literal["each"] | None = None,
        budgets: dict[str, Budget] | None = None,
        refinements: dict[str, Refinement] | None = None,
        truncations: dict[str, Truncation] | None = None,
        vote_over_scales: bool = False,
        pass_at: list[int] | None = None,
        strata: list[float] = [],  # noqa: B006  # never changed; a list for jsonargparse
        verifier: Reward | None = None,
        reward_pool: RewardPool | None = None,
        engine: RolloutEngine | None = None,
        output: str | None = None,
        overwrite: bool = False,
        rescore: bool = False,
        batch_size: int = 64,
        neutral_text: str | None = SHIPPED,
        max_prompt_tokens: int = 1024,
        seed: int = 0,
        device: str = "auto",
        dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        quantization: Quantization | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        check_counts(benchmarks, batch_size, num_samples, pass_at)
        check_scales(scales)
        check_seed("seed", seed)
        self.paths = [vectors] if isinstance(vectors, str) else list(vectors or [])
        self.files = load_files(self.paths) if self.paths else {}
        self.base = base or base_of(self.files, trust_remote_code)
        self.benchmarks, self.template = benchmarks, template or ChatTemplate()
        self.sampling, self._own_of_base = sampling, base_sampling
        self.base_sampling = base_sampling.over(sampling) if base_sampling else sampling
        self.num_scales = len(scales) if vote_over_scales else 1
        self.num_samples, self.pass_at, self.strata = num_samples, pass_at, strata
        check_strata(strata, base_sampling, [self._sampling(x).group_size for x in benchmarks])
        further = (budgets or {}, refinements or {}, truncations or {})
        self.budgets, self.refinements, self.truncations = further
        self.arms = make_arms(self.files, scales, leave_out_layers, *further)
        self.verifier: Reward = verifier or MathReward()
        check_over_scales(vote_over_scales, scales, list(self.files), self.verifier)
        self.pool, self.engine = reward_pool or RewardPool(), engine or DecodeEngine()
        check_refinements(self.refinements, self.files, self._samplings(), self.engine)
        self.store = Store(Path(output) if output else self._default_output())
        self.overwrite, self.rescore, self.seed, self.device = overwrite, rescore, seed, device
        self.batch_size, self.max_prompt_tokens = batch_size, max_prompt_tokens
        self.side_effects = SideEffects(neutral_text, self.store.side_effects)
        with own_keys(OWN_KEYS):
            own: Any = {"revision": revision, "trust_remote_code": trust_remote_code}
            self.policy = Policy(self.base, dtype=dtype, quantization=quantization, **own)
            check_quantization(self.policy, list(self.files.values()), self.engine)

    def _default_output(self) -> Path:
        folder = find_result(self.paths[0]).parent if self.paths else Path()
        return folder / EVALUATION

    @own_keys(OWN_KEYS)
    def run(self) -> dict[str, Any]:
        """Runs the evaluation, or continues an interrupted one.

        Returns:
            The content of `results.json`: `rows`, one for each benchmark, arm and metric;
            `capability`, see the function of this name; `strata`, such rows for each stratum;
            and `side_effects`, see `measure_side_effects`, null if they are not measured.

        Raises:
            ConfigError: If benchmarks, vectors or folder do not fit; raised before the base loads.
        """
        self._plug_ins = plug_in_facts(self.engine, self.verifier)
        judge, voting = judges_of(self.verifier, self.pool)
        try:
            if self.rescore:
                rows, stored = read_rows(self.store.completions), self.store.read_results()
                tell_of_missing(rows, [arm.name for arm in self.arms])
                rows, effects = verified_anew(rows, judge), self.side_effects.kept()
            else:
                self.side_effects.read(self.policy.tokenizer)
                rows, stored = self._answered(judge), {}
                plain = [arm for arm in self.arms if arm.is_plain]
                effects = self.side_effects.of(plain, self._load)
            results = self._results(rows, voting, stored) | {"side_effects": effects}
        finally:
            judge.close()
        if rank() == 0:
            self.store.finish(rows, results, self._plug_ins[VERIFIER] if self.rescore else None)
        return results

    # ---- answering

    def _answered(self, judge: RewardSum) -> list[Row]:
        prompts = self._prompts()
        check_fit(self.files, self.policy)
        check_truncations(self.truncations, self.files, self.engine, self.policy)
        self._check_engine(prompts)
        if rank() == 0:
            self.store.open(self._settings(prompts), self.overwrite)
        batches = list(self._batches(prompts))
        parts = [self.store.part(self.arms[x.arm].name, x.benchmark, x.number) for x in batches]
        if gather_objects(self.store.completions.exists())[0]:  # as the first process sees it
            log.warning("%s is finished: nothing is sampled again", one_line(self.store.folder))
            return gather_objects(read_rows(self.store.completions) if rank() == 0 else [])[0]
        done = gather_objects({path for path in parts if path.exists()})[0]
        if len(done) < len(parts):
            self._load()
        count = sum(len(batch.prompts) for batch in batches)
        with tqdm(total=count, unit="problem", disable=rank() > 0) as bar:
            for batch, path in zip(batches, parts, strict=True):
                arm = self.arms[batch.arm]
                bar.set_description(f"{one_line(batch.benchmark)}, {one_line(arm.name)}")
                if path not in done:
                    with arm.on_weights_of(self.policy):
                        self._answer(batch, arm, path, judge)
                bar.update(len(batch.prompts))
        return gather_objects(self.store.read(parts) if rank() == 0 else [])[0]

    def _prompts(self) -> dict[str, list[Prompt]]:
        """Makes the prompts of each benchmark, and checks them before anything is loaded."""
        check_template(self.template, self.policy.tokenizer)
        check_budgets(self.budgets, self.files, self._samplings(), self.policy.tokenizer)
        found = {}
        for name, source in self.benchmarks.items():
            if not name.replace("-", "").replace("_", "").isalnum():
                rule = "must consist of letters, digits, - and _"
                raise ConfigError("benchmarks", name, rule=rule, why="It is part of file names")
            found[name] = make_prompts(
                source,
                self.template,
                self.policy.tokenizer,
                self.max_prompt_tokens,
                f"benchmarks.{name}",
            )
            tell_of_unstored(name, found[name])
            measured = num_measured(self._sampling(name).group_size, self.strata)
            check_samples({name: measured}, self.num_scales)
            for key, most in self._longest().items():
                self.policy.check_prompts(found[name], most, key)
        return found

    def _samplings(self) -> dict[str, Sampling]:
        """Returns the settings for answering problems, by their keys."""
        found = {"sampling": self.sampling}
        return found | ({"base_sampling": self.base_sampling} if self._own_of_base else {})

    def _longest(self) -> dict[str, int]:
        """Returns the largest numbers of tokens of completions, by the keys that set them."""
        found = {f"{key}.max_new_tokens": x.max_new_tokens for key, x in self._samplings().items()}
        samplings = list(self._samplings().values())
        return found | most_tokens_by_budget(self.budgets, samplings, self.policy.tokenizer)

    def _check_engine(self, prompts: dict[str, list[Prompt]]) -> None:
        """Lets an engine that runs elsewhere refuse arms and texts before the base loads."""
        before_load = getattr(self.engine, "before_load", None)
        if before_load is not None and not self.store.completions.exists():
            most = max(self._longest().values())
            longest = longest_text_of(itertools.chain(*prompts.values()), most)
            before_load(self.policy, [arm.steering for arm in self.arms], longest)

    def _settings(self, prompts: dict[str, list[Prompt]]) -> dict[str, Any]:
        """Returns everything on which completions and verdicts depend."""
        return {
            **base_facts(self.policy),
            "arms": {arm.name: arm.facts for arm in self.arms},
            "sampling": {name: asdict(self._sampling(name)) for name in prompts},
            "base_sampling": {name: asdict(self._sampling(name, True)) for name in prompts},
            "prompts": {name: hash_prompts(found) for name, found in prompts.items()},
            "batch_size": self.batch_size,
            "seed": self.seed,
            **self._plug_ins,
        }

    def _sampling(self, benchmark: str, is_base: bool = False) -> Sampling:
        if is_base and self._own_of_base is not None:
            return self._own_of_base.over(self._sampling(benchmark))
        if self.num_samples is not None:
            return replace(self.sampling, group_size=self.num_samples)
        return sampling_for(self.benchmarks[benchmark], self.sampling)

    def _batches(self, prompts: dict[str, list[Prompt]]) -> Iterator[_Batch]:
        for name, found in prompts.items():
            for arm in range(len(self.arms)):
                for number, start in enumerate(range(0, len(found), self.batch_size)):
                    yield _Batch(arm, name, number, found[start : start + self.batch_size])

    def _load(self) -> Policy:
        if self.policy.model is not None:
            return self.policy
        self.policy.load()
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        self.policy.to(auto if self.device == "auto" else self.device)
        self.engine.setup(self.policy)
        tell_of_endings(self.policy.tokenizer, self.policy.eos_token_ids, self._samplings())
        return self.policy

    def _answer(self, batch: _Batch, arm: Arm, path: Path, judge: RewardSum) -> None:
        """Samples, verifies and stores a batch; each of n processes takes every n-th problem."""
        self.policy.steer(arm.steering, arm.scale)
        self.engine.sync(self.policy.steering)
        own = batch.prompts[rank() :: world_size()]
        rows: list[Row] = []
        if own:
            sampling = self._sampling(batch.benchmark, arm.is_base)
            with closing(judge.start()) as scoring:
                completions, costs = answer(
                    self.policy, self.engine, own, sampling, arm, self.seed, scoring.add
                )
                verdicts = verdicts_of(scoring.result(completions))
            judged = zip(completions, *verdicts, costs, strict=True)
            for n, (completion, verdict, outcome, cost) in enumerate(judged):
                prompt = own[n // sampling.group_size]
                place = {"benchmark": batch.benchmark, "arm": arm.name, "problem": prompt.id}
                place |= {"sample": n % sampling.group_size}
                known = cost if self.refinements else {}
                rows.append(row_of(place, completion, verdict, outcome, known))
        every = [row for share in gather_objects(rows) for row in share]
        if rank() == 0:
            self.store.write_part(path, sorted(every, key=lambda x: (x["problem"], x["sample"])))

    # ---- counting

    def _results(
        self, rows: list[Row], voting: Voting | None, stored: dict[str, Any]
    ) -> dict[str, Any]:
        """Makes the content of `results.json`, without side effects.

        Args:
            rows: Rows of all arms.
            voting: How samples vote; None if they have no votes.
            stored: Content of an earlier `results.json` of these rows, which knows their arms, in
                place of the settings; empty without one.
        """
        arms = stored or further_facts(self.arms, self.sampling, self.base_sampling)
        ks, inner = self.pass_at, in_strata(rows, self.strata) if self.strata else []
        return {
            "rows": figures([*rows, *self._over(rows)], voting, ks),
            "capability": capability(rows, ks or []),
            "strata": figures([*inner, *self._over(inner)], voting, ks),
            "budgets": arms.get("budgets", []),
            "refinements": refinement_records(rows, arms.get("refinements", []), voting),
        }

    def _over(self, rows: list[Row]) -> list[Row]:
        """Returns the rows of arms that vote over scales; none unless this is asked for."""
        return over_scales(rows, self.arms if self.num_scales > 1 else [])
