"""What a change of style does to a network: to its answers, and to its features, held against their supposed split.

Where pictures are made with a known graph, do(style) redraws the ground and leaves the object, so what an answer owes
to style is seen, not estimated. It also checks the content and the style that CausalAdv claims to tell apart (Zhang et
al., "CausalAdv: Adversarial Robustness through the Lens of Causality", ICLR 2022, arXiv:2106.06196): features must move
inside the style part under do(style), and inside the content part between images of one style with different labels.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from deconfound.attacks.scores import kl
from deconfound.defenses.style import unit
from deconfound.fields import Count, Natural, Positive, hyperparameters
from deconfound.interpretations.case import Case, Floats, Readings, selected
from deconfound.models.classifier import to_unit

RANK = 1e-4  # singular values below this part of the largest are rounding
ITERATIONS = 5000  # of a logistic regression, at most


@hyperparameters
class StyleDependence:
    """examples: of the test images; probe_c: inverse strength of the probes' l2 penalty; pictured: pairs in pictures.

    At `model` and `do_style`, of images that do(style) changes: `changed`, the prediction is another, `right_before`,
    `right_after`, `label_logit_change`, `style_logit_change` (logit of the class with the new style's number, where
    that is another) and `output_kl` (nats). At `prediction`, on the `original` images and under `do_style`, where the
    number of the style is not the label: `follows_style` and `follows_label`; number `style_by_chance`, what the first
    would be if errors fell on all other classes alike.

    Splits of the features: `head`, content the row space of the head and style the rest; and `defense`, where it left
    a `basis`: style the row space of the basis and content the rest, of features scaled to length 1. At a split:
    `style_share` of the squared change of the features under `do_style`; between images of one style, of `other_label`
    and of the same (`same_label`: everything else that differs); number `chance` `style_share`, of a change in a
    random direction; number `do_style` `above_other_label`, the difference of the means, 0 where the split knows
    nothing of style; number `weights` `style_share` of the squared weights of the head.

    Probes: at `features`, `head_content`, `head_style`, `defense_content`, `defense_style` and `probe_style` or
    `probe_label`, per image `right`: what a logistic regression on these features says of the style and of the label
    of images in the half that it did not learn from; number `chance`: the largest class. Pairs and probes take the
    images under do(style), where style tells nothing of the label; the images themselves where there are none.

    Pictures, images whose answer changed first: `before`, `after` (P, C, H, W) uint8; `places` (P,), `labels` (P,),
    `styles` (P, 2) and `predictions` (P, 2), int64, before and after.
    """

    examples: Count = 1000
    probe_c: Positive = 1.0
    pictured: Natural = 6

    def __call__(self, case: Case) -> Readings:
        """See the class."""
        case, found = case.first(self.examples), Readings()
        truth = case.truth
        if truth.style is None and truth.moved is None:
            found.notes.append("Nothing says what the style of an image is, so no dependence on it was read.")
            return found
        if truth.moved is None:
            found.notes.append(
                "There are no images under do(style): style tells as much of the label as in the data."
            )
        moved = None if truth.moved is None else to_unit(truth.moved.to(case.device))
        if moved is not None:
            self._answers(found, case, moved)
        known = [("original", case.x, truth.style), ("do_style", moved, truth.moved_style)]
        numbered = [(name, x, style) for name, x, style in known if x is not None and style is not None]
        for name, x, style in numbered:
            _follows(found, case, name, x, style)
        if not numbered:
            found.notes.append(
                "The styles have no numbers: no prediction, pair or probe could be held against them."
            )
        splits = _splits(found, case)
        for name, split in splits.items():
            self._changes(found, case, name, split, moved, numbered)
        if numbered:
            self._probes(found, case, splits, *numbered[-1][1:])
        return found

    def _answers(self, found: Readings, case: Case, moved: Tensor) -> None:
        """What do(style) does to the outputs."""
        before, after = case.logits(case.x), case.logits(moved)
        said, says = before.argmax(1), after.argmax(1)
        rows = _differs(case, moved)
        if not bool(rows.any()):
            found.notes.append("do(style) changes no test image: the style was drawn the same again.")
        values = {
            "changed": says != said,
            "right_before": said == case.y,
            "right_after": says == case.y,
            "label_logit_change": (after - before).gather(1, case.y[:, None]).squeeze(1),
            "output_kl": kl(before, after),
        }
        for metric, value in values.items():
            found.add("model", "do_style", metric, selected(value[rows.to(case.device)], rows, len(rows)))
        if case.truth.moved_style is not None and case.truth.style is not None:
            new = case.truth.moved_style.to(case.device)
            apart = rows & (case.truth.moved_style != case.truth.style).cpu() & (new < case.classes).cpu()
            rise = (after - before).gather(1, new.clamp(0, case.classes - 1)[:, None]).squeeze(1)
            rise = rise[apart.to(case.device)]
            found.add("model", "do_style", "style_logit_change", selected(rise, apart, len(apart)))
            self._picture(found, case, rows, torch.stack([said, says], 1).cpu())

    def _picture(self, found: Readings, case: Case, rows: Tensor, said: Tensor) -> None:
        truth = case.truth
        assert truth.moved is not None and truth.style is not None and truth.moved_style is not None
        order = (said[:, 0] == said[:, 1]).int().argsort(stable=True)
        places = order[rows[order]][: self.pictured]
        if len(places):
            styles = torch.stack([truth.style.cpu(), truth.moved_style.cpu()], 1)
            arrays = {"before": case.test.x.cpu(), "after": truth.moved.cpu(), "labels": case.test.y.cpu()}
            arrays |= {"styles": styles, "predictions": said}
            found.pictures |= {name: array[places].numpy() for name, array in arrays.items()}
            found.pictures["places"] = places.numpy()

    def _changes(
        self,
        found: Readings,
        case: Case,
        name: str,
        split: "Split",
        moved: Tensor | None,
        numbered: list[tuple[str, Tensor, Tensor]],
    ) -> None:
        """Where the features move under do(style), and where between images of one style."""
        means: dict[str, float] = {}
        if moved is not None:
            change = split.seen(case, moved) - split.seen(case, case.x)
            means["do_style"] = _share(found, name, "do_style", split, change, _differs(case, moved))
        if numbered:
            _, x, style = numbered[-1]
            features, y = split.seen(case, x), case.y.cpu()
            for condition, same in (("other_label", False), ("same_label", True)):
                rng = case.rng(f"style partners {condition}")
                partner = partners(style.cpu(), y, same_label=same, rng=rng)
                change = features[partner.clamp_min(0).to(features.device)] - features
                means[condition] = _share(found, name, condition, split, change, partner >= 0)
        if {"do_style", "other_label"} <= means.keys():
            found.note(name, "do_style", "above_other_label", means["do_style"] - means["other_label"])
        found.note(name, "chance", "style_share", split.style.shape[1] / len(split.style))
        weight = case.model.head.weight.detach().double()
        share = (weight @ split.style).square().sum() / weight.square().sum()
        found.note(name, "weights", "style_share", float(share))

    def _probes(
        self, found: Readings, case: Case, splits: dict[str, "Split"], x: Tensor, style: Tensor
    ) -> None:
        inputs = {"features": case.features(x).double()}
        for name, split in splits.items():
            features = split.seen(case, x)
            inputs |= {f"{name}_content": features @ split.content, f"{name}_style": features @ split.style}
        for target, classes in (("style", style.cpu()), ("label", case.y.cpu())):
            _, counts = torch.unique(classes, return_counts=True)
            for name, features in inputs.items():
                if features.shape[1]:
                    rng = case.rng(f"halves for the probe of {target}")
                    right = probe_right(features, classes, c=self.probe_c, rng=rng)
                    found.add(name, f"probe_{target}", "right", right)
                    found.note(name, f"probe_{target}", "chance", float(counts.max() / counts.sum()))


class Split(NamedTuple):
    """Orthonormal columns content (D, c) and style (D, s) that span all features, float64; scaled: whether features are
    first scaled to length 1.
    """

    content: Tensor
    style: Tensor
    scaled: bool

    def seen(self, case: Case, x: Tensor) -> Tensor:
        """Features (N, D) float64 of images as the split takes them."""
        features = case.features(x)
        return (unit(features) if self.scaled else features).double()


def row_space(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns that span the rows (R, D), and those that span the rest; float64."""
    _, sizes, directions = torch.linalg.svd(rows.double(), full_matrices=True)
    rank = int((sizes > RANK * sizes.max()).sum()) if len(sizes) else 0
    return directions[:rank].T, directions[rank:].T


def partners(style: Tensor, y: Tensor, *, same_label: bool, rng: Generator) -> Tensor:
    """For every image the place (N,) of another one with the same style, with the same label or with another one; -1
    where there is none.
    """
    found = torch.full_like(y, -1)
    for one in torch.unique(style).tolist():
        rows = (style == one).nonzero().squeeze(1)
        able = (y[rows][:, None] == y[rows][None]) == same_label
        able.fill_diagonal_(False)
        drawn = torch.rand(able.shape, generator=rng).masked_fill(~able, -1).max(1)
        found[rows] = torch.where(drawn.values >= 0, rows[drawn.indices], -1)
    return found


def probe_right(features: Tensor, target: Tensor, *, c: float, rng: Generator) -> Floats:
    """Whether a logistic regression on features (N, D), learnt on one half of the images, is right on each image of the
    other (N,); NaN where a half holds one class only.
    """
    from sklearn.linear_model import LogisticRegression

    rows, classes = features.double().cpu(), target.cpu().numpy()
    order = torch.randperm(len(rows), generator=rng)
    halves = [order[: len(rows) // 2], order[len(rows) // 2 :]]
    right: Floats = np.full(len(rows), np.nan)
    for learnt, judged in (halves, halves[::-1]):
        known: NDArray[np.int64] = classes[learnt.numpy()]
        if len(np.unique(known)) < 2 or not len(judged):
            continue
        mean, scale = rows[learnt].mean(0), rows[learnt].std(0, correction=0)
        standard = (rows - mean) / torch.where(scale > 1e-9 * scale.max(), scale, torch.inf)
        fit = LogisticRegression(C=c, max_iter=ITERATIONS).fit(standard[learnt].numpy(), known)
        right[judged.numpy()] = fit.predict(standard[judged].numpy()) == classes[judged.numpy()]
    return right


def _splits(found: Readings, case: Case) -> dict[str, Split]:
    """The head's own, and the defense's where it left one."""
    content, style = row_space(case.model.head.weight.detach())
    splits = {"head": Split(content, style, False)}
    width = case.model.head.in_features
    basis = case.parts.get("basis")
    if basis is not None and basis.dim() == 2 and basis.shape[1] == width and bool(basis.any()):
        style, content = row_space(basis.detach().to(case.device))
        splits["defense"] = Split(content, style, True)
    else:
        found.notes.append(
            "The defense left no basis of style, so only the head's own split could be checked."
        )
    for name, split in splits.items():
        if not split.style.shape[1] or not split.content.shape[1]:
            empty = "style" if split.content.shape[1] else "content"
            found.notes.append(
                f"All {width} directions of the features are of one part: {name} has no {empty}."
            )
    return splits


def _differs(case: Case, moved: Tensor) -> Tensor:
    """(N,) bool on the CPU: images that do(style) changes."""
    return (moved != case.x).flatten(1).any(1).cpu()


def _share(found: Readings, name: str, condition: str, split: Split, change: Tensor, rows: Tensor) -> float:
    """Record the share of the squared change (N, D) that lies in the style part, of rows (N,); its mean."""
    inside = (change @ split.style).square().sum(1)
    share = inside / (inside + (change @ split.content).square().sum(1))
    share = share[rows.to(share.device)]
    found.add(name, condition, "style_share", selected(share, rows, len(rows)))
    return float(share.nanmean())


def _follows(found: Readings, case: Case, condition: str, x: Tensor, style: Tensor) -> None:
    """Whether the answer is the number of the style, where that is not the label."""
    said, style = case.logits(x).argmax(1), style.to(case.device)
    apart = style != case.y
    rows = apart.cpu()
    for metric, wanted in (("follows_style", style), ("follows_label", case.y)):
        found.add("prediction", condition, metric, selected((said == wanted)[apart], rows, len(rows)))
    wrong = (said != case.y)[apart].double().mean()
    found.note("prediction", condition, "style_by_chance", float(wrong / (case.classes - 1)))
