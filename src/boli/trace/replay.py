"""From a run to its trace: borrow pages, go through the tokens again with probes, write it all down."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, cast

from boli.engine.loan import borrow
from boli.errors import UsageError
from boli.trace.api import Live, Trace
from boli.trace.document import build, chains_of
from boli.trace.facts import bytes_per_token
from boli.trace.observing import ProbedRunner, observe
from boli.trace.prices import Detail, Price, check_price, price_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from boli.engine.constraint import Constraint
    from boli.engine.llm import LLM
    from boli.engine.record import RunRecord
    from boli.trace.observing import Evidence


def replay(
    llm: LLM,
    run: RunRecord,
    *,
    detail: Detail = "rows",
    roofline: bool = False,
    other_model: bool = False,
    announce: Callable[[Mapping[Detail, Price]], None] | None = None,
) -> Trace:
    """Traces a run; see `LLM.replay`.

    Args:
        llm: The model that answered.
        run: The run.
        detail: How much to keep.
        roofline: Also measure this machine's limits, and hold the times against them.
        other_model: Take the tokens of another model's run, to compare the two; `proof` says so.
        announce: Told the price of each detail before anything is computed.

    Raises:
        UsageError: Another model's run; no token was generated; too long for the context or the detail.
        OutOfMemory: Requests hold the pages that it needs.
        MissingExtra: The answer was held to a grammar, and what follows grammars is not installed.
        GrammarError: The grammar does not lead to the run's own tokens; another version made them.
    """
    _check(llm, run, other_model=other_model)
    config, engine = llm.blueprint.config, llm._engine
    runner = cast("ProbedRunner", engine.runner)
    check_price(config, detail, run.prompt_length, len(run.generated))
    with borrow(engine, len(run.token_ids) - 1) as loan:
        prices = loan.use(lambda: price_list(config, run, runner.head_logits))
        if announce is not None:
            announce(prices)
        evidence = observe(runner, loan, run, detail)
    chains = chains_of(run, evidence, _constraint(llm, run))
    limits = _roofline(llm, run, evidence) if roofline else None
    return Trace(build(llm, run, evidence, detail, prices, chains, limits), Live(run, evidence, chains))


def _check(llm: LLM, run: RunRecord, *, other_model: bool) -> None:
    if not run.generated:
        raise UsageError(
            "the run has no answer, so there is nothing to trace", cause="it ended before its first token"
        )
    if run.model.hash != llm.fingerprint and not other_model:
        raise UsageError(
            f"the run was made with another model: {run.model.name} ({run.model.hash[:12] or 'unknown'}), "
            f"and this is {llm.name} ({llm.fingerprint[:12] or 'unknown'})",
            cause="the files differ, in size or in what they hold",
            remedy="load the model that made the run, or run the prompt again with this one",
        )
    largest = max(*run.token_ids, *(token for token, _ in run.sampling.logit_bias))
    if largest >= llm.blueprint.config.vocab_size:
        raise UsageError(
            f"the run has token {largest}, which is not in the vocabulary of {llm.name}",
            cause="it was made with another tokenizer",
        )
    if len(run.token_ids) - 1 > llm.context:
        raise UsageError(
            f"the run has {len(run.token_ids):,} tokens; the context holds {llm.context:,}",
            remedy=f"load the model with context={len(run.token_ids)}",
        )


def _constraint(llm: LLM, run: RunRecord) -> Constraint | None:
    """What the answer had to be; another model's vocabulary would lead elsewhere."""
    if run.constraint is None or run.model.hash != llm.fingerprint:
        return None
    return llm.grammars.of(run.constraint)


def _roofline(llm: LLM, run: RunRecord, evidence: Evidence) -> dict[str, object]:
    """This machine's limits, what they predict for a token and for the prompt, and what was measured."""
    from boli.weigh.devices import this_device  # noqa: PLC0415  # takes seconds, and only some want it
    from boli.weigh.model import find_model  # noqa: PLC0415
    from boli.weigh.run import weigh_run  # noqa: PLC0415
    from boli.weigh.speed import weigh_speed  # noqa: PLC0415

    model = find_model(llm.path)
    account = weigh_run(
        model, context=llm.context, threads=llm.threads, types=llm.number_formats, kv_dtype=llm.kv_cache_type
    )
    sizes: dict[str, int] = {}
    for weight in llm.blueprint:
        kind = llm.number_formats[weight.name]
        sizes[kind] = sizes.get(kind, 0) + account.packed.get(weight.name, 0)
    device = this_device(llm.threads)
    speed = weigh_speed(
        model,
        device,
        bytes_of=account.packed,
        context=max(1, (run.prompt_length + len(run.token_ids)) // 2),
        prompt=run.prompt_length,
        kv_dtype=llm.kv_cache_type,
        weight_type=max(sizes, key=lambda kind: sizes[kind]),
    )
    steps = [seen.total for seen in evidence.decisions if seen.rows == 1]
    tokens, seconds = len(run.generated) - 1, run.timings.get("decode_s", 0.0)
    decode = speed.decode
    return {
        "read_bytes_per_s": device.bandwidth,
        "operations_per_s": None if speed.peak is None else speed.peak.value,
        "operations_in": speed.compute,
        "bytes_per_token": bytes_per_token(llm),
        "bytes_with_cache": None if decode is None else decode.bytes.value,
        "flops_per_token": speed.flop_per_token.value,
        "predicted_seconds": None if decode is None or decode.seconds is None else decode.seconds.value,
        "measured_seconds": median(steps) if steps else None,
        "run_seconds": seconds / tokens if tokens > 0 else None,
        "prefill": {
            "tokens": run.prompt_length,
            "bytes": speed.prefill.bytes.value,
            "flops": speed.prefill.flop.value,
            "predicted_seconds": None if speed.prefill.seconds is None else speed.prefill.seconds.value,
            "measured_seconds": sum(each[2] for each in evidence.prompt_steps),
        },
    }
