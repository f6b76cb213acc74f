"""CausalAdv against the invariants of its specification (causaladv.md section 12), and one step of it in naive code."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed
from oracle_models import linear_problem, same, small_network, snapshot, tiny_images, workbench
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from deconfound import training
from deconfound.attacks.ascent import Ascent
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.causaladv import CausalAdv, StyleAlignment, StyleTerm
from deconfound.defenses.robustly import robust_accuracy
from deconfound.defenses.style import unit
from deconfound.defenses.trades import TRADES
from deconfound.defenses.workbench import Pace
from deconfound.models.classifier import Classifier
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.storage import read_weights, write_weights
from deconfound.threat import ThreatModel

RECIPE = Recipe(epochs=2, batch_size=8)
BATCHES = 4  # of 30 images in batches of 8
ASCENT = Ascent(threat=ThreatModel(eps=0.1), step_size=0.03, steps=3)
IMAGES = tiny_images(24)
X, Y = (IMAGES.x.float() / 255)[:12], IMAGES.y[:12]
LATER = (IMAGES.x.float() / 255)[12:], IMAGES.y[12:]
HALF = Pace(1, 2, 0.5)
BEGIN = Pace(0, 2, 0.0)


def fresh(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


def adv(**changes: Any) -> CausalAdv:
    return CausalAdv(**({"ascent": ASCENT} | changes))


def objective(
    spec: CausalAdv, model: Classifier, at: Pace = HALF, *, recipe: Recipe = RECIPE
) -> StyleAlignment:
    """The objective before its first step, with a predictor that says something already: the term counts."""
    made = StyleAlignment(spec, model, recipe, rng=generator(0, "style"))
    made.predictor.last.weight.data *= 10
    made.pace(at)
    return made


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: value.grad for name, value in model.named_parameters()}
    assert all(value is not None for value in found.values())
    return {name: value.clone() for name, value in found.items() if value is not None}


# One step in naive code


class Naive:
    """Section 4.7 of the specification, word by word, in double precision and without the project's parts."""

    def __init__(self, spec: CausalAdv, made: StyleAlignment) -> None:
        self.spec, self.anchor, self.g = spec, made.anchor, copy.deepcopy(made.predictor)
        self.beta = spec.beta if spec.beta is not None else {"m": 1.0, "t": 6.0}[spec.variant]
        self.optimizer = torch.optim.SGD(
            self.g.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4
        )
        self.features: list[Tensor] = []
        self.hidden: list[tuple[Tensor, Tensor]] = []
        self.sigma = torch.zeros(3, 8, 8).double()

    def corrected(self, style: Tensor, y: Tensor, rho: float) -> Tensor:
        u = self.g.last.weight
        a = self.g.body(style) @ u.T + self.g.last.bias
        rows = []
        for i, label in enumerate(y.tolist()):
            s = self.sigma[label]
            if self.spec.covariance == "isotropic":
                s = self.spec.isotropic_variance * torch.eye(8).double()
            shift = torch.stack([(u[k] - u[label]) @ s @ (u[k] - u[label]) for k in range(3)])
            rows.append(a[i] + rho / 2 * shift)
        return torch.stack(rows)

    def style(self, features: Tensor) -> Tensor:
        return features / (features.norm(dim=1, keepdim=True) + 1e-6) @ self.basis.T

    def attack(self, h: Classifier, x: Tensor, y: Tensor, strength: float, rng: Generator) -> Tensor:
        spec, alpha, rho = self.spec, self.spec.alpha * strength, self.spec.rho * strength
        eps = spec.ascent.threat.eps
        h.eval(), self.g.eval()
        with torch.no_grad():
            p_clean = h(x).softmax(1)
            p_style = self.corrected(self.style(h.features(x)), y, rho).softmax(1)
        z = (x + ((torch.rand(x.shape, generator=rng) * 2 - 1) * eps).double()).clamp(0, 1)
        for _ in range(spec.ascent.steps):
            z = z.detach().requires_grad_()
            log_q = h(z).log_softmax(1)
            away = F.nll_loss(log_q, y, reduction="sum")
            if spec.variant == "t":
                away = (p_clean * (p_clean.log() - log_q)).sum()
            said = self.corrected(self.style(h.features(z)), y, rho).log_softmax(1)
            goal = self.beta * away - alpha * (p_style * said).sum()
            (slope,) = torch.autograd.grad(goal, z)
            z = z + spec.ascent.step_size * slope.sign()
            z = torch.maximum(torch.minimum(z, x + eps), x - eps).clamp(0, 1)
        h.train(), self.g.train()
        return z.detach()

    def fit(self, style: Tensor, y: Tensor, rho: float) -> None:
        with torch.no_grad():
            q = copy.deepcopy(self.g).body(style)  # a copy: this pass must not move the running statistics
            self.hidden.append((q / (q.norm(dim=1, keepdim=True) + 1e-6), y))
        q, labels = (torch.cat(part) for part in zip(*self.hidden, strict=True))
        self.sigma = torch.stack([torch.cov(q[labels == k].T, correction=0) for k in range(3)])
        self.optimizer.zero_grad()
        F.cross_entropy(self.corrected(style, y, rho), y).backward()
        self.optimizer.step()

    def step(self, h: Classifier, x: Tensor, y: Tensor, ramp: float, rng: Generator) -> Tensor:
        spec = self.spec
        r = h.features(x)
        z = h.head(r)
        self.features.append((r / (r.norm(dim=1, keepdim=True) + 1e-6)).detach())
        m = torch.cov(torch.cat(self.features).T, correction=0)
        v = m @ h.head.weight.detach().T
        basis = self.anchor - self.anchor @ v @ torch.linalg.pinv(v)
        self.basis = basis / basis.norm(dim=1, keepdim=True)
        x_adv = self.attack(h, x, y, 1.0 if spec.attack_weights == "full" else ramp, rng)
        r_adv = h.features(x_adv)
        z_adv = h.head(r_adv)
        self.fit(self.style(r).detach(), y, spec.rho * ramp)
        self.g.eval()
        target = self.corrected(self.style(r), y, spec.rho * ramp).softmax(1)
        target = target.detach() if spec.detach_target else target
        said = self.corrected(self.style(r_adv), y, spec.rho * ramp).log_softmax(1)
        self.g.train()
        style_loss = -(target * said).sum(1).mean()
        if spec.variant == "m":
            base = self.beta * F.cross_entropy(z_adv, y) + spec.gamma * F.cross_entropy(z, y)
        else:
            log_p, log_q = z.log_softmax(1), z_adv.log_softmax(1)
            base = F.cross_entropy(z, y) + self.beta * (log_p.exp() * (log_p - log_q)).sum(1).mean()
        return base + spec.alpha * ramp * style_loss


@pytest.mark.parametrize(
    "spec",
    [
        adv(),
        adv(variant="t"),
        adv(variant="t", beta=2.0, alpha=0.5, rho=0.5, head="linear"),
        adv(beta=0.5, gamma=0.7, covariance="isotropic", isotropic_variance=0.3),
        adv(detach_target=True, attack_weights="ramped", alpha=3.0),
        adv(ramp=False, rho=2.0),
        adv(alpha=0.0, gamma=0.3),
        adv(alpha=0.0, variant="t"),
    ],
    ids=["m", "t", "linear", "isotropic", "detached", "no ramp", "m without style", "t without style"],
)
def test_two_steps_are_those_of_naive_code(spec: CausalAdv) -> None:
    recipe = Recipe(epochs=2, batch_size=8, lr=0.05, schedule="constant")
    model = small_network(dropout=0.0).double().train()
    made = objective(spec, model, recipe=recipe)
    made.anchor = made.anchor.double()
    made.predictor.double(), made.moments.double()
    twin, naive = copy.deepcopy(model), Naive(spec, made)
    moves = [torch.optim.SGD(h.parameters(), lr=0.1) for h in (model, twin)]
    rng, other = fresh(), fresh()
    for x, y in ((X, Y), LATER):
        loss = made(model, x.double(), y, rng=rng)
        expected = naive.step(twin, x.double(), y, 0.5 if spec.ramp else 1.0, other)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
        loss.backward(), expected.backward()
        for name, value in gradients(twin).items():
            assert torch.allclose(gradients(model)[name], value, atol=1e-9), name
        for move in moves:
            move.step()
            move.zero_grad()
    for name, value in twin.state_dict().items():
        assert torch.allclose(model.state_dict()[name], value), name
    if spec.alpha:
        assert torch.allclose(made.basis, naive.basis, atol=1e-8)
        assert torch.allclose(made.predictor.moments.covariance, naive.sigma)
        for name, value in naive.g.state_dict().items():
            assert "moments" in name or torch.allclose(made.predictor.state_dict()[name], value), name


# Without the style term


def trained(spec: CausalAdv, **options: Any) -> Any:
    return spec(workbench(RECIPE, **options)[0])


@pytest.mark.parametrize("attack_weights", ["full", "ramped"])
def test_without_the_style_term_m_is_adversarial_training_after_a_clean_pass_to_the_bit(
    attack_weights: Any,
) -> None:
    """Batch norm and dropout see the clean images first: the baseline does that here as well."""
    base = AdversarialTraining(ascent=ASCENT)

    def plain(model: nn.Module, x: Tensor, y: Tensor, *, rng: Generator) -> Tensor:
        model(x)
        return base.objective(model, x, y, rng=rng)

    models = small_network(), small_network()
    for seed in (0, 1):
        losses = []
        for model, step in zip(
            models, (plain, objective(adv(alpha=0.0, attack_weights=attack_weights), models[1])), strict=True
        ):
            with global_seed(fresh(seed)):
                losses.append(step(model.train(), X, Y, rng=fresh(seed)))
            losses[-1].backward()
        assert torch.equal(*losses) and same(*(snapshot(model) for model in models))  # gradients too
        for model in models:
            torch.optim.SGD(model.parameters(), lr=0.1).step()
            model.zero_grad()
        assert same(*(snapshot(model) for model in models))
    bench = workbench(RECIPE)[0]
    whole = bench.begin()
    bench.fit(whole, plain)
    assert same(trained(adv(alpha=0.0)).model.state_dict(), whole.state_dict())


@pytest.mark.parametrize("beta", [None, 2.0])
def test_without_the_style_term_t_is_trades_to_the_bit(beta: float | None) -> None:
    """In evaluation mode: in training mode TRADES attacks before its clean pass moves the batch norms."""
    models = small_network().eval(), small_network().eval()
    losses = [
        TRADES(ascent=ASCENT, beta=beta or 6.0).objective(models[0], X, Y, rng=fresh()),
        objective(adv(alpha=0.0, variant="t", beta=beta), models[1])(models[1], X, Y, rng=fresh()),
    ]
    for loss in losses:
        loss.backward()
    assert torch.equal(*losses) and same(*(snapshot(model) for model in models))


@pytest.mark.parametrize("variant", ["m", "t"])
def test_with_it_another_network_is_learnt(variant: Any) -> None:
    with_style, without = (trained(adv(variant=variant, alpha=a)).model.state_dict() for a in (1.0, 0.0))
    assert not same(with_style, without)


def test_gamma_adds_the_clean_cross_entropy_to_m_and_nothing_to_t() -> None:
    losses = {}
    for variant in ("m", "t"):
        for gamma in (0.0, 0.7):
            model = small_network(dropout=0.0)
            made = objective(adv(variant=variant, gamma=gamma), model)
            losses[variant, gamma] = made(model, X, Y, rng=fresh())
    clean = F.cross_entropy(small_network(dropout=0.0)(X), Y)
    assert (losses["m", 0.7] - losses["m", 0.0]).item() == pytest.approx(0.7 * clean.item(), rel=1e-4)
    assert torch.equal(losses["t", 0.7], losses["t", 0.0])


# Ramps


def stepped(spec: CausalAdv, at: Pace) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """Gradients of a step, its loss, and the images that it crafted."""
    model = small_network(dropout=0.0)
    made = objective(spec, model, at)
    crafted: list[Tensor] = []
    attack = made.attack

    def kept(*args: Any, **options: Any) -> Tensor:
        crafted.append(attack(*args, **options))
        return crafted[-1]

    made.attack = kept  # type: ignore[method-assign]
    loss = made(model, X, Y, rng=fresh())
    loss.backward()
    return gradients(model), loss.detach(), crafted[0]


@pytest.mark.parametrize("variant", ["m", "t"])
def test_the_first_epoch_has_the_gradient_of_the_base_loss_on_images_crafted_against_style_too(
    variant: Any,
) -> None:
    found, loss, x_adv = stepped(adv(variant=variant, alpha=5.0), BEGIN)
    model = small_network(dropout=0.0)
    z, z_adv = model(X), model(x_adv)
    base = F.cross_entropy(z_adv, Y)
    if variant == "t":
        divergence = F.kl_div(z_adv.log_softmax(1), z.log_softmax(1), log_target=True, reduction="batchmean")
        base = F.cross_entropy(z, Y) + 6 * divergence
    base.backward()
    assert loss.item() == pytest.approx(base.item(), rel=1e-5)
    for name, value in gradients(model).items():
        assert torch.allclose(found[name], value, atol=1e-5), name
    assert not torch.equal(x_adv, stepped(adv(variant=variant, alpha=0.0), BEGIN)[2])
    ramped = stepped(adv(variant=variant, alpha=5.0, attack_weights="ramped"), BEGIN)
    assert torch.equal(ramped[2], stepped(adv(variant=variant, alpha=0.0), BEGIN)[2])


def test_alpha_and_rho_grow_linearly_over_the_epochs_and_are_full_without_a_ramp() -> None:
    third = Pace(1, 3, 0.4)
    ramped = stepped(adv(alpha=3.0, rho=1.5, attack_weights="ramped"), third)
    assert torch.equal(ramped[1], stepped(adv(alpha=1.0, rho=0.5, ramp=False), BEGIN)[1])
    assert not torch.equal(ramped[1], stepped(adv(alpha=3.0, rho=1.5, ramp=False), BEGIN)[1])
    for at in (BEGIN, third):
        assert torch.equal(
            stepped(adv(alpha=3.0, rho=1.5), at)[2], stepped(adv(alpha=3.0, rho=1.5, ramp=False), at)[2]
        )  # the attack has them in full from the beginning


def test_the_predictor_follows_the_schedule_of_the_recipe() -> None:
    model = small_network(dropout=0.0)
    made = objective(adv(), model, recipe=Recipe(lr=0.2, schedule="steps", milestones=(0.5,)))
    rates = []
    for fraction in (0.0, 0.49, 0.5):
        made.pace(Pace(0, 2, fraction))
        rates.append(made.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.2, 0.2, 0.02])


# Who is updated by what


def test_the_attack_leaves_every_parameter_and_buffer_as_it_was() -> None:
    model = small_network(dropout=0.0).train()
    made = objective(adv(), model)
    made(model, X, Y, rng=fresh()).backward()
    before = snapshot(model), snapshot(made.predictor), snapshot(made.moments), made.basis.clone()
    made.attack(model, X, Y, rng=fresh())
    assert same((snapshot(model), snapshot(made.predictor), snapshot(made.moments), made.basis), before)


def test_the_step_of_the_predictor_leaves_no_gradient_in_the_network_and_none_in_itself() -> None:
    model = small_network(dropout=0.0).train()
    made = objective(adv(), model)
    before = snapshot(made.predictor)
    loss = made(model, X, Y, rng=fresh())
    assert all(value.grad is None for value in [*model.parameters(), *made.predictor.parameters()])
    after = snapshot(made.predictor)
    assert not same(before, after) and made.predictor.moments.count.tolist() == [4, 4, 4]
    loss.backward()
    assert same(snapshot(made.predictor), after)  # the step of the network: no gradient, no statistics
    assert all(value.grad is not None for value in model.parameters())


def test_the_style_loss_reads_the_predictor_in_evaluation_mode_and_leaves_it_alone() -> None:
    model = small_network(dropout=0.0)
    made = objective(adv(), model)
    made(model, X, Y, rng=fresh())
    before = snapshot(made.predictor)
    r = model.features(X).detach()
    whole = made.style_loss(unit(r), unit(r + 0.1), Y)
    apart = [made.style_loss(unit(r[i]), unit(r[i] + 0.1), Y[i]) for i in torch.arange(12).split(1)]
    assert whole.item() == pytest.approx(torch.stack(apart).mean().item(), rel=1e-5)
    assert same(snapshot(made.predictor), before) and made.predictor.training


# The style loss


def style_gradients(detach: bool, moved: float) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the style loss at clean and at attacked style, and of the divergence at the latter."""
    model = small_network(dropout=0.0)
    made = objective(adv(detach_target=detach), model)
    made(model, X, Y, rng=fresh())
    r = torch.rand(12, 8, generator=fresh())
    clean, attacked = r.clone().requires_grad_(), (r + moved * r.flip(0)).requires_grad_()
    made.style_loss(clean, attacked, Y).backward()
    again = attacked.detach().clone().requires_grad_()
    made.predictor.eval()
    a, b = (
        made.spec.corrected(made.predictor, made.predictor(z @ made.basis.T), Y, made.ramp)
        for z in (r, again)
    )
    F.kl_div(b.log_softmax(1), a.detach().log_softmax(1), log_target=True, reduction="batchmean").backward()
    assert attacked.grad is not None and again.grad is not None
    return torch.zeros(12, 8) if clean.grad is None else clean.grad, attacked.grad, again.grad


def test_with_a_detached_target_the_gradient_is_that_of_the_divergence() -> None:
    clean, attacked, divergence = style_gradients(True, 0.5)
    assert torch.allclose(attacked, divergence, atol=1e-7) and divergence.abs().max() > 1e-4
    assert not clean.any()


def test_where_style_has_not_moved_only_the_target_has_a_gradient() -> None:
    clean, attacked, _ = style_gradients(False, 0.0)
    assert attacked.abs().max() < 1e-7 and clean.abs().max() > 1e-4


# The attack


@pytest.mark.parametrize("variant", ["m", "t"])
@pytest.mark.parametrize("start", ["uniform", "gaussian"])
def test_crafted_images_are_legal_and_begin_at_the_start(variant: Any, start: Any) -> None:
    model = small_network(dropout=0.0)
    x = torch.cat([X[:6] * 0, X[6:] * 0 + 1])  # the box is tight
    for images in (X, x):
        made = objective(
            adv(variant=variant, ascent=Ascent(threat=ThreatModel(eps=0.1), step_size=0.05, steps=5)), model
        )
        x_adv = made.attack(model, images, Y, rng=fresh())
        assert x_adv.min() >= 0 and x_adv.max() <= 1 and (x_adv - images).abs().max() <= 0.1 + 1e-6
        still = Ascent(threat=ThreatModel(eps=0.1), step_size=1e-12, steps=1, start=start)
        made = objective(adv(variant=variant, ascent=still), model)
        begun = still.begin(images, rng=fresh())
        assert torch.allclose(made.attack(model, images, Y, rng=fresh()), begun, atol=1e-9)


def test_the_attack_raises_the_style_term_more_the_more_it_counts() -> None:
    raised = []
    for alpha in (0.0, 100.0):
        model = small_network(dropout=0.0)
        made = objective(adv(), model)
        for _ in range(20):  # steps of the predictor, so that it reads something
            made(model, X, Y, rng=fresh())
        made.spec = adv(alpha=alpha, ascent=Ascent(threat=ThreatModel(eps=0.2), step_size=0.02, steps=20))
        x_adv = made.attack(model, X, Y, rng=fresh())
        made.predictor.eval(), model.eval()
        with torch.no_grad():
            aim = StyleTerm(adv(), made.predictor, made.basis)(X, Y, *model.both(X))
            still, moved = (aim(z, *model.both(z), torch.arange(12)).mean() for z in (X, x_adv))
        raised.append(float(moved - still))
    assert raised[1] > 1.5 * raised[0] > 0.1


# The whole defense


def everything(done: Any) -> dict[str, Any]:
    return {"model": dict(done.model.state_dict()), "parts": dict(done.parts)}


@pytest.mark.parametrize(
    "spec", [adv(), adv(variant="t", basis="reshuffled", forget=0.2), adv(alpha=0.0)], ids=["m", "t", "base"]
)
def test_a_killed_run_ends_in_the_same_bytes(
    spec: CausalAdv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "SAVE_EVERY", -1.0)
    whole = everything(trained(spec, scratch=tmp_path / "whole"))
    steps, call = [0], StyleAlignment.__call__

    def dying(self: StyleAlignment, *args: Any, **options: Any) -> Tensor:
        steps[0] += 1
        if steps[0] == BATCHES + 2:
            raise Killed
        return call(self, *args, **options)

    monkeypatch.setattr(StyleAlignment, "__call__", dying)
    with pytest.raises(Killed):
        trained(spec, scratch=tmp_path / "killed")
    steps[0] = 1000
    resumed = everything(trained(spec, scratch=tmp_path / "killed"))
    assert steps[0] == 1000 + BATCHES  # the second epoch only
    assert same(resumed, whole)


def test_the_state_is_restored_into_another_objective_with_its_momenta() -> None:
    model = small_network(dropout=0.0)
    first = objective(adv(), model)
    first(model, X, Y, rng=fresh())
    state = {name: value.clone() for name, value in first.state().items()}
    other = StyleAlignment(adv(), small_network(dropout=0.0), RECIPE, rng=generator(1, "style"))
    other.restore(state)
    other.pace(HALF)
    assert same(other.state(), state) and any(name.startswith("optimizer/") for name in state)
    twin = copy.deepcopy(model)
    losses = [made(h, *LATER, rng=fresh()) for made, h in ((first, model), (other, twin))]
    assert torch.equal(*losses) and same(first.state(), other.state())


@pytest.mark.parametrize("basis", ["exact", "sequential", "random", "identity", "reshuffled"])
def test_the_seed_alone_decides_what_is_learnt(basis: Any) -> None:
    runs = []
    for seed, elsewhere in ((0, 1), (0, 2), (1, 1)):
        torch.manual_seed(elsewhere)
        runs.append(everything(trained(adv(basis=basis), seed=seed)))
    assert same(runs[0], runs[1]) and not same(runs[0]["model"], runs[2]["model"])
    assert all(value.isfinite().all() for value in runs[0]["parts"].values())
    if basis != "exact":
        assert not same(runs[0]["model"], everything(trained(adv()))["model"])


def test_the_term_from_stored_parts_is_the_one_that_the_training_climbed(tmp_path: Path) -> None:
    for spec in (adv(), adv(head="linear", covariance="isotropic", rho=0.5)):
        model = small_network(dropout=0.0).eval()
        made = objective(spec, model)
        for _ in range(3):
            made(model, X, Y, rng=fresh())
        write_weights(tmp_path / "parts.safetensors", made.parts())
        term = spec.term(model, read_weights(tmp_path / "parts.safetensors"))
        made.predictor.eval()
        assert term is not None
        z, rows = LATER[0][:5], torch.tensor([7, 0, 3, 3, 11])
        with torch.no_grad():
            found = term(X, Y, *model.both(X))(z, *model.both(z), rows)
            said = [
                spec.corrected(
                    made.predictor, made.predictor(unit(model.features(images)) @ made.basis.T), y, spec.rho
                )
                for images, y in ((X[rows], Y[rows]), (z, Y[rows]))
            ]
        expected = -(said[0].softmax(1) * said[1].log_softmax(1)).sum(1)
        assert torch.allclose(found, expected, atol=1e-6) and found.std() > 1e-4


def test_the_term_leaves_no_gradient_in_target_or_predictor_and_gives_one_to_images() -> None:
    model = small_network(dropout=0.0).eval().requires_grad_(False)
    made = objective(adv(), model)
    made(small_network(dropout=0.0), X, Y, rng=fresh())
    term = adv().term(model, made.parts())
    assert term is not None
    assert not term.predictor.training and not any(p.requires_grad for p in term.predictor.parameters())
    z = X.clone().requires_grad_()
    value = term(X, Y, *model.both(z))(z, *model.both(z), torch.arange(12)).sum()
    (slope,) = torch.autograd.grad(value, z)
    assert slope.abs().max() < 1e-6  # at the image itself a cross-entropy with a constant target is least
    moved = (X + 0.1).requires_grad_()
    value = term(X, Y, *model.both(X))(moved, *model.both(moved), torch.arange(12)).sum()
    assert torch.autograd.grad(value, moved)[0].abs().max() > 1e-5


def test_without_a_style_term_there_is_nothing_to_store_or_to_tell() -> None:
    done = trained(adv(alpha=0.0))
    assert done.parts == {} and adv(alpha=0.0).term(done.model, done.parts) is None


# The loop of all robust defenses


def test_robust_accuracy_of_a_linear_model_is_that_of_its_exact_worst_case() -> None:
    model, x, _ = linear_problem()
    stored = (x * 255).round().to(torch.uint8)
    pixels = stored.float() / 255
    y = (model.margin(pixels) > 0).long()
    radius = model.margin(pixels).abs() / model.w.norm(p=1)
    ascent = Ascent(threat=ThreatModel(eps=0.05), step_size=0.02, steps=10)
    before = snapshot(model)
    images = tiny_images()._replace(x=stored, y=y)
    found = robust_accuracy(model, images, ascent, rng=fresh())  # type: ignore[arg-type]
    assert found == pytest.approx(float((radius > 0.05).double().mean())) and 0.2 < found < 0.8
    assert same(snapshot(model), before)


def test_robust_accuracy_is_that_of_the_network_as_it_predicts_and_leaves_it_as_it_was() -> None:
    images, found = tiny_images(60), []
    for mode in (False, True):
        model = small_network().train(mode)
        before = snapshot(model)
        found.append(robust_accuracy(model, images, ASCENT, rng=fresh()))
        assert same(snapshot(model), before)
    assert found[0] == found[1]


def test_validation_is_left_out_recorded_or_chooses_the_weights() -> None:
    states, histories = {}, {}
    for validation in ("none", "track", "best"):
        bench, trainer = workbench(Recipe(epochs=4, batch_size=8, lr=0.3))
        done = adv(validation=validation)(bench)  # type: ignore[arg-type]
        states[validation], histories[validation] = done.model.state_dict(), trainer.history["model"]
        judged = robust_accuracy(done.model, bench.val, ASCENT, rng=bench.rng("validation"))
        if validation != "none":
            values = [record["val_robust"] for record in histories[validation]]
            assert judged == (max(values) if validation == "best" else values[-1])
    assert same(states["none"], states["track"])
    assert "val_robust" not in histories["none"][0]
    values = [record["val_robust"] for record in histories["track"]]
    assert same(states["best"], states["track"]) == (values.index(max(values)) == 3)
