"""Importances that look at the loss' gradients, first and second. Rules stand in this room's front page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch

from edgeprune.prune.importance.evidence import Evidence, Loss, Scores, Tensors
from edgeprune.prune.importance.gather import WEIGHTED, average, by_all, gated, gather, weights

#: (gradient, weight) -> what one batch or image adds.
Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def taylor(evidence: Evidence) -> Scores:
    """First-order Taylor: the squared change of the loss that muting the channel would make, the mean over batches of
    (sum of g w)^2 over the weights w that mute it. Source: Molchanov et al. 2019, eq. 8 and 10.

    A channel that passes a BatchNorm is muted by its scale and shift, so the change is their gradient x
    value; summing the convolution's own rows on top would count it twice.
    """
    return by_all(_squared_changes(evidence, evidence.gradients(), "taylor"))


def taylor_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """The mean over batches of (g w)^2. Source: Molchanov et al. 2019, eq. 8."""
    return _each(evidence, evidence.gradients(), lambda g, w: (g * w) ** 2, "taylor")


def fisher(evidence: Evidence) -> Scores:
    """1/(2N) sum over N images of g^2, g the gradient by the channel's gate: the loss' second-order change, its
    Hessian taken for the empirical Fisher information. Source: Theis et al. 2018, section 2.1, eq. 9."""
    return by_all(_squared_changes(evidence, evidence.image_gradients(), "fisher"))


def fisher_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """1/2 h w^2, the diagonal h of the Hessian taken for that of the empirical Fisher information, the mean of g^2
    over images. Source: LeCun et al. 1990 (Optimal Brain Damage); the Fisher information as in Theis et al. 2018."""
    return _each(evidence, evidence.image_gradients(), lambda g, w: (g * w) ** 2 / 2, "fisher")


def gradient(evidence: Evidence) -> Scores:
    """The mean of |g| over the weights that make the channel, and over batches.
    Source: Evci et al. 2020 (RigL), section 3, grow criterion."""
    graph = evidence.graph
    absolute = average(({n: g.abs() for n, g in b.items()} for b in evidence.gradients()), "gradient")
    ones = {name: torch.ones_like(value) for name, value in absolute.items()}
    sums, count = (gather(graph, v, kinds=(*WEIGHTED, "parameter"), sides=("out",)) for v in (absolute, ones))
    return by_all({name: sums[name] / np.maximum(count[name], 1) for name in sums})


def gradient_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """The mean of |g| over batches. Source: Evci et al. 2020 (RigL), section 3, grow criterion."""
    return _each(evidence, evidence.gradients(), lambda g, w: g.abs(), "gradient")


def snip(evidence: Evidence) -> Scores:
    """The connection sensitivities |g w| / sum |g w| of the weights that make the channel, summed.
    Source: Lee et al. 2019, section 4.1, eq. 6, over channels."""
    return by_all(gather(evidence.graph, snip_each(evidence), kinds=WEIGHTED, sides=("out",)))


def snip_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """|g w| / its sum over all weights; g of the loss over all batches together.
    Source: Lee et al. 2019, section 4.1, eq. 6."""
    found = _each(evidence, evidence.gradients(), lambda g, w: g * w, "snip")
    total = sum(float(value.abs().sum()) for value in found.values())
    return {name: value.abs() / total if total else value for name, value in found.items()}


def hessian(evidence: Evidence) -> Scores:
    """Trace(H_c) / (2 p) x |w|^2 over the p weights w that make the channel, H_c their block of the Hessian.
    Source: Yu et al. 2022 (HAP), section 3; the trace by Hutchinson as in Dong et al. 2020 (HAWQ-V2)."""
    graph = evidence.graph
    own = weights(graph, evidence.model)
    diagonal = _diagonal(evidence)
    trace, square, count = (
        gather(graph, values, kinds=WEIGHTED, sides=("out",))
        for values in (diagonal, {n: w**2 for n, w in own.items()}, {n: torch.ones_like(w) for n, w in own.items()})
    )
    return by_all({n: np.maximum(trace[n], 0) / (2 * np.maximum(count[n], 1)) * square[n] for n in trace})


def hessian_each(evidence: Evidence) -> dict[str, torch.Tensor]:
    """1/2 h w^2, h the diagonal of the Hessian. Source: LeCun et al. 1990 (Optimal Brain Damage); the diagonal by
    Hutchinson as in Dong et al. 2020 (HAWQ-V2)."""
    own = weights(evidence.graph, evidence.model)
    return {name: h.clamp(min=0) * own[name] ** 2 / 2 for name, h in _diagonal(evidence).items()}


def _diagonal(evidence: Evidence) -> dict[str, torch.Tensor]:
    """The Hessian's diagonal by the weights, by Hutchinson: E[v x Hv], v of signs; one v a batch. Where it comes out
    under 0, less than no curvature, its users take 0: a loss that isn't at its minimum bends down in places."""
    names = list(weights(evidence.graph, evidence.model))
    generator = torch.Generator().manual_seed(evidence.seed)

    def probed(losses: Iterable[Loss]) -> Iterator[Tensors]:
        for loss, parameters in losses:
            reached = [name for name in names if name in parameters]
            by = [parameters[name] for name in reached]
            gradients = torch.autograd.grad(loss, by, create_graph=True, allow_unused=True)
            signs = [(torch.randint(0, 2, p.shape, generator=generator) * 2 - 1).to(p) for p in by]
            along = sum((g * v).sum() for g, v in zip(gradients, signs, strict=True) if g is not None)
            products: Iterable[torch.Tensor | None] = [None] * len(by)
            if isinstance(along, torch.Tensor) and along.requires_grad:
                products = torch.autograd.grad(along, by, allow_unused=True)
            yield {
                name: torch.zeros_like(v, device="cpu") if p is None else (p * v).detach().cpu()
                for name, p, v in zip(reached, products, signs, strict=True)
            }

    return average(probed(evidence.losses()), "hessian")


def _squared_changes(evidence: Evidence, gradients: Iterable[Tensors], method: str) -> Scores:
    parameters = {name: p.detach().double() for name, p in evidence.model.named_parameters()}
    total: Scores = {}
    batches = 0
    for found in gradients:
        products = {name: parameters[name] * g.double() for name, g in found.items() if name in parameters}
        for name, change in gated(evidence.graph, products).items():
            total[name] = total.get(name, 0.0) + change**2
        batches += 1
    if not batches:
        raise ValueError(f"{method} needs at least one batch of gradients")
    return {name: values / batches for name, values in total.items()}


def _each(evidence: Evidence, gradients: Iterable[Tensors], of: Term, method: str) -> dict[str, torch.Tensor]:
    own = weights(evidence.graph, evidence.model)
    found = average(({n: of(g.double(), own[n]) for n, g in b.items() if n in own} for b in gradients), method)
    return {name: found.get(name, torch.zeros_like(w)) for name, w in own.items()}
