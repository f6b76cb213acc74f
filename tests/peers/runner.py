"""Runs the attacks of another library on an exported model; called by peers.py with the peers' own Python.

    python runner.py REQUEST.json

Imports nothing of deconfound. The request (see `Request`) names an npz with x (N, C, H, W) float32 in [0, 1] and
y (N,) int64, and a model exported by torch.export, which gives logits (N, K) of such x. One process runs one library,
so that peak memory can be compared. It writes an npz with x_adv (N, C, H, W) float32 per attack, and a JSON with
seconds and bytes per attack.

What each library offers, with the options of its attacks, is the signature of the methods of `Torchattacks`, `Foolbox`,
`ART` and `PyAutoAttack`. eps and step_size are in units of pixels in [0, 1]; norm is "linf" or "l2".

Where defaults of a library are not what the attack's paper says, the paper's are used here; every such place has a
comment. Licences: torchattacks, foolbox, ART and pyautoattack are all under the MIT licence.
"""

import json
import math
import random
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor, nn

Norm = str  # "linf" or "l2"
Attack = Callable[[Tensor, Tensor], Tensor]
"""x (n, C, H, W) in [0, 1], y (n,) -> x_adv like x."""


class Request(TypedDict):
    """attacks: name in the output -> options, among them `kind`, the method of the library; paths are absolute.

    batch_size: images that an attack sees at once. repeats: runs of each attack, each with the same seed, all timed.
    frozen: whether the weights ask for no gradient; foolbox and ART would compute it and throw it away.
    """

    library: str
    attacks: dict[str, dict[str, Any]]
    images: str
    model: str
    found: str
    measures: str
    threads: int
    seed: int
    batch_size: int
    repeats: int
    frozen: bool


class Victim(nn.Module):
    """The exported network, always in evaluation mode: it was exported so, and cannot change.

    The libraries call eval() and train(), which exported modules refuse.
    """

    def __init__(self, network: nn.Module, *, frozen: bool) -> None:
        super().__init__()
        self.network = network
        self.requires_grad_(not frozen)
        self.training = False

    def train(self, mode: bool = True) -> "Victim":
        """Changes the flag alone, so that the libraries find what they set."""
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.network(x)
        return logits


class Library:
    """A library bound to a model; each public method makes an attack out of options."""

    def __init__(self, model: Victim, shape: tuple[int, ...], classes: int, request: Request) -> None:
        self.model = model
        self.shape = shape
        self.classes = classes
        self.seed = request["seed"]
        self.batch_size = request["batch_size"]


class Torchattacks(Library):
    """torchattacks: tensors in, tensors out, no batches; normalisation stays inside our model.

    DDN does not exist there; its CW searches no constant, so c has to be given.
    """

    def fgsm(self, *, eps: float) -> Attack:
        """linf."""
        import torchattacks

        return self._batched(torchattacks.FGSM(self.model, eps=eps))

    def pgd(
        self, *, eps: float, steps: int, step_size: float, norm: Norm = "linf", random_start: bool = True
    ) -> Attack:
        """Draws from torch's global generator."""
        import torchattacks

        pgd = {"linf": torchattacks.PGD, "l2": torchattacks.PGDL2}[norm]
        return self._batched(
            pgd(self.model, eps=eps, alpha=step_size, steps=steps, random_start=random_start)
        )

    def apgd_ce(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """APGD on cross-entropy; skips what the model gets wrong anyway."""
        return self._apgd("ce", eps, norm, steps, restarts)

    def apgd_dlr(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """APGD on the DLR loss."""
        return self._apgd("dlr", eps, norm, steps, restarts)

    def _apgd(self, loss: str, eps: float, norm: Norm, steps: int, restarts: int) -> Attack:
        import torchattacks

        options = {"norm": _spelled(norm), "eps": eps, "steps": steps, "n_restarts": restarts}
        return self._batched(torchattacks.APGD(self.model, loss=loss, seed=self.seed, **options))

    def autoattack(
        self, *, eps: float, norm: Norm = "linf", steps: int | None = 100, rescale: bool = False
    ) -> Attack:
        """Version `standard`: APGD-CE, targeted APGD-DLR, targeted FAB, Square.

        steps, rescale: torchattacks itself takes 10 steps in the first three and rescales Square's schedule to the
        number of queries; the paper's 100 steps and plain schedule are set here. steps=None leaves both alone.
        """
        import torchattacks

        attack = torchattacks.AutoAttack(
            self.model, norm=_spelled(norm), eps=eps, n_classes=self.classes, seed=self.seed
        )
        if steps is not None:
            for part in attack._autoattack.attacks:
                if hasattr(part, "steps"):
                    part.steps = steps
                if hasattr(part, "rescale_schedule"):
                    part.rescale_schedule = rescale
        return self._batched(attack)

    def cw_l2(self, *, c: float, steps: int, step_size: float, confidence: float = 0.0) -> Attack:
        """Carlini-Wagner with a constant c for all images."""
        import torchattacks

        return self._batched(torchattacks.CW(self.model, c=c, kappa=confidence, steps=steps, lr=step_size))

    def deepfool(self, *, steps: int = 50, overshoot: float = 0.02) -> Attack:
        """l2, one image after the other; leaves images on the boundary, on which the model does not err."""
        import torchattacks

        return self._batched(torchattacks.DeepFool(self.model, steps=steps, overshoot=overshoot))

    def _batched(self, attack: Attack) -> Attack:
        return _batched(attack, self.batch_size)


class Foolbox(Library):
    """foolbox: the attacks with a least norm return, per image, the best that they found; where they found nothing,
    something on which the model does not err.
    """

    def fgsm(self, *, eps: float, norm: Norm = "linf") -> Attack:
        """Fast gradient (sign) method."""
        from foolbox import attacks

        return self._within(
            {"linf": attacks.LinfFastGradientAttack, "l2": attacks.L2FastGradientAttack}[norm](), eps
        )

    def pgd(
        self,
        *,
        eps: float,
        steps: int,
        step_size: float,
        norm: Norm = "linf",
        random_start: bool = True,
        restarts: int = 1,
    ) -> Attack:
        """Draws from torch's global generator; restarts keep the best run of each image."""
        from foolbox import attacks

        pgd = {
            "linf": attacks.LinfProjectedGradientDescentAttack,
            "l2": attacks.L2ProjectedGradientDescentAttack,
        }[norm](abs_stepsize=step_size, steps=steps, random_start=random_start)
        return self._within(pgd if restarts == 1 else pgd.repeat(restarts), eps)

    def cw_l2(
        self,
        *,
        search_steps: int = 9,
        steps: int = 1000,
        step_size: float = 0.01,
        initial_const: float = 1e-3,
        confidence: float = 0.0,
        abort_early: bool = True,
    ) -> Attack:
        """Carlini-Wagner with a binary search over the constant; abort_early looks at the loss of the whole batch."""
        from foolbox.attacks import L2CarliniWagnerAttack

        return self._least(
            L2CarliniWagnerAttack(
                binary_search_steps=search_steps,
                steps=steps,
                stepsize=step_size,
                initial_const=initial_const,
                confidence=confidence,
                abort_early=abort_early,
            )
        )

    def ddn(self, *, steps: int = 100, init_eps: float = 1.0, gamma: float = 0.05) -> Attack:
        """Decoupled direction and norm, l2."""
        from foolbox.attacks import DDNAttack

        return self._least(DDNAttack(init_epsilon=init_eps, steps=steps, gamma=gamma))

    def deepfool(
        self, *, norm: Norm = "l2", steps: int = 50, candidates: int | None = 10, overshoot: float = 0.02
    ) -> Attack:
        """candidates: classes that are tried, the likeliest first."""
        from foolbox import attacks

        deepfool = {"l2": attacks.L2DeepFoolAttack, "linf": attacks.LinfDeepFoolAttack}[norm]
        return self._least(deepfool(steps=steps, candidates=candidates, overshoot=overshoot))

    def _within(self, attack: Any, eps: float) -> Attack:
        return self._attack(attack, eps)

    def _least(self, attack: Any) -> Attack:
        return self._attack(attack, None)

    def _attack(self, attack: Any, eps: float | None) -> Attack:
        import foolbox

        model = foolbox.PyTorchModel(self.model, bounds=(0, 1), device="cpu")

        def run(x: Tensor, y: Tensor) -> Tensor:
            _, clipped, _ = attack(model, x, foolbox.Misclassification(y), epsilons=eps)
            found: Tensor = clipped
            return found

        return _batched(run, self.batch_size)


class ART(Library):
    """The Adversarial Robustness Toolbox: numpy in, numpy out, and numpy's global generator."""

    def fgsm(self, *, eps: float, norm: Norm = "linf") -> Attack:
        """Fast gradient method without the minimal search."""
        from art.attacks.evasion import FastGradientMethod

        return self._attack(
            FastGradientMethod(self._classifier(), norm=_order(norm), eps=eps, batch_size=self.batch_size)
        )

    def pgd(
        self,
        *,
        eps: float,
        steps: int,
        step_size: float,
        norm: Norm = "linf",
        random_start: bool = True,
        restarts: int = 1,
    ) -> Attack:
        """num_random_init=0 starts at the image; restarts keep the last run that succeeds."""
        from art.attacks.evasion import ProjectedGradientDescentPyTorch

        return self._attack(
            ProjectedGradientDescentPyTorch(
                self._classifier(),
                norm=_order(norm),
                eps=eps,
                eps_step=step_size,
                max_iter=steps,
                num_random_init=restarts if random_start else 0,
                batch_size=self.batch_size,
                verbose=False,
            )
        )

    def apgd_ce(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """APGD on cross-entropy."""
        return self._attack(self._apgd("cross_entropy", eps, norm, steps, restarts))

    def apgd_dlr(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """APGD on the DLR loss."""
        return self._attack(self._apgd("difference_logits_ratio", eps, norm, steps, restarts))

    def _apgd(self, loss: str, eps: float, norm: Norm, steps: int, restarts: int) -> Any:
        from art.attacks.evasion import AutoProjectedGradientDescent

        return AutoProjectedGradientDescent(
            self._classifier(),
            norm=_order(norm),
            eps=eps,
            eps_step=2 * eps,  # the paper's first step; ART takes eps_step as it is, by default 0.1
            max_iter=steps,
            nb_random_init=restarts,
            batch_size=self.batch_size,
            loss_type=loss,
            verbose=False,
        )

    def autoattack(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """What ART calls so is not the standard version: APGD-CE, APGD-DLR (untargeted), DeepFool, Square.

        There is no targeted DLR and no FAB in it. restarts: of both APGD and of Square; ART's own default is 5.
        """
        from art.attacks.evasion import AutoAttack, DeepFool, SquareAttack

        classifier = self._classifier()
        parts = [
            self._apgd("cross_entropy", eps, norm, steps, restarts),
            self._apgd("difference_logits_ratio", eps, norm, steps, restarts),
            DeepFool(
                classifier, max_iter=100, epsilon=1e-3, nb_grads=10, batch_size=self.batch_size, verbose=False
            ),
            SquareAttack(
                classifier,
                norm=_order(norm),
                max_iter=5000,
                eps=eps,
                p_init=0.8,
                nb_restarts=restarts,
                batch_size=self.batch_size,
                verbose=False,
            ),
        ]
        return self._attack(
            AutoAttack(classifier, norm=_order(norm), eps=eps, attacks=parts, batch_size=self.batch_size)
        )

    def cw_l2(
        self,
        *,
        search_steps: int = 9,
        steps: int = 1000,
        step_size: float = 0.01,
        initial_const: float = 1e-3,
        confidence: float = 0.0,
    ) -> Attack:
        """Carlini-Wagner with a binary search over the constant, and a line search of its own."""
        from art.attacks.evasion import CarliniL2Method

        return self._attack(
            CarliniL2Method(
                self._classifier(),
                confidence=confidence,
                learning_rate=step_size,
                binary_search_steps=search_steps,
                max_iter=steps,
                initial_const=initial_const,
                batch_size=self.batch_size,
                verbose=False,
            )
        )

    def deepfool(self, *, steps: int = 50, candidates: int = 10, overshoot: float = 0.02) -> Attack:
        """l2; starts from the model's answer and not from y."""
        from art.attacks.evasion import DeepFool

        return self._attack(
            DeepFool(
                self._classifier(),
                max_iter=steps,
                epsilon=overshoot,
                nb_grads=candidates,
                batch_size=self.batch_size,
                verbose=False,
            )
        )

    def _classifier(self) -> Any:
        from art.estimators.classification import PyTorchClassifier

        return PyTorchClassifier(
            self.model,
            loss=nn.CrossEntropyLoss(),
            input_shape=self.shape,
            nb_classes=self.classes,
            clip_values=(0.0, 1.0),
            device_type="cpu",
        )

    @staticmethod
    def _attack(attack: Any) -> Attack:
        def run(x: Tensor, y: Tensor) -> Tensor:
            return torch.from_numpy(attack.generate(x=x.numpy(), y=y.numpy()))

        return run


class PyAutoAttack(Library):
    """pyautoattack 0.2.0: the original AutoAttack of Croce and Hein, packaged.

    Its metadata name Francesco Croce and Matthias Hein as authors, github.com/fra31/auto-attack as home, and the MIT
    licence (as a classifier; the wheel holds no licence text, but 42 MB of example weights). The attacks and the
    parameters of `standard` are the published ones; with equal seeds its APGD reaches the robust accuracy of
    torchattacks' port of the original. The interface is not the original's: options by keyword, `attacks` in place of
    `attacks_to_run`, the CPU by default, messages through the logger "auto-attack", y_adv always returned; images whose
    attack failed come back clean.
    """

    def autoattack(self, *, eps: float, norm: Norm = "linf") -> Attack:
        """Version `standard`: APGD-CE, targeted APGD-DLR, targeted FAB, Square with 5,000 queries."""
        from pyautoattack import AutoAttack

        return self._attack(
            AutoAttack(self.model, eps=eps, norm=_spelled(norm), seed=self.seed, version="standard")
        )

    def apgd_ce(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """APGD on cross-entropy."""
        return self._attack(self._only("apgd-ce", eps, norm, steps, restarts))

    def apgd_dlr(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """APGD on the DLR loss."""
        return self._attack(self._only("apgd-dlr", eps, norm, steps, restarts))

    def apgd_targeted(
        self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1
    ) -> Attack:
        """APGD on the targeted DLR loss, up to nine target classes."""
        return self._attack(self._only("apgd-t", eps, norm, steps, restarts))

    def fab(self, *, eps: float, norm: Norm = "linf", steps: int = 100, restarts: int = 1) -> Attack:
        """FAB; returns a point only where it lies within eps."""
        return self._attack(self._only("fab", eps, norm, steps, restarts))

    def fab_targeted(self, *, eps: float, norm: Norm = "linf", steps: int = 100) -> Attack:
        """Targeted FAB, up to nine target classes, without restarts."""
        return self._attack(self._only("fab-t", eps, norm, steps, 1))

    def square(self, *, eps: float, norm: Norm = "linf", queries: int = 5000, restarts: int = 1) -> Attack:
        """Square attack on the margin."""
        attack = self._only("square", eps, norm, 100, restarts)
        attack.square.n_queries = queries
        return self._attack(attack)

    def _only(self, name: str, eps: float, norm: Norm, steps: int, restarts: int) -> Any:
        from pyautoattack import AutoAttack

        attack: Any = AutoAttack(
            self.model, eps=eps, norm=_spelled(norm), seed=self.seed, version="custom", attacks=[name]
        )
        targets = min(9, self.classes - 1)
        for part in (attack.apgd, attack.apgd_targeted, attack.fab):
            part.n_iter = steps
        for part in (attack.apgd, attack.apgd_targeted, attack.fab, attack.square):
            part.n_restarts = restarts
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        return attack

    def _attack(self, attack: Any) -> Attack:
        def run(x: Tensor, y: Tensor) -> Tensor:
            found: Tensor = attack.run_standard_evaluation(x, y, batch_size=self.batch_size)[0]
            return found

        return run


LIBRARIES: dict[str, tuple[type[Library], str]] = {  # name -> class, name of the distribution
    "torchattacks": (Torchattacks, "torchattacks"),
    "foolbox": (Foolbox, "foolbox"),
    "art": (ART, "adversarial-robustness-toolbox"),
    "pyautoattack": (PyAutoAttack, "pyautoattack"),
}


def _spelled(norm: Norm) -> str:
    return {"linf": "Linf", "l2": "L2"}[norm]


def _order(norm: Norm) -> float:
    return {"linf": math.inf, "l2": 2}[norm]


def _batched(attack: Attack, batch_size: int) -> Attack:
    """For libraries that put all images through the model at once."""

    def run(x: Tensor, y: Tensor) -> Tensor:
        pairs = zip(x.split(batch_size), y.split(batch_size), strict=True)
        return torch.cat([attack(part, labels) for part, labels in pairs])

    return run


def reset_peak() -> None:
    """Start the peak of memory anew, where the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_bytes() -> int:
    """Peak of resident memory since the last reset (Linux), or since the start.

    getrusage is the fallback: on Linux its value is never less than what the parent held when it started us.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


def seed_everything(seed: int) -> None:
    """All the generators that a library may draw from."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def serve(request: Request) -> None:
    """Load, run all attacks, write."""
    torch.set_num_threads(request["threads"])
    with np.load(request["images"]) as arrays:
        x, y = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
    model = Victim(torch.export.load(request["model"]).module(), frozen=request["frozen"])
    warm = x[:2].clone().requires_grad_()
    logits = model(warm)
    logits.sum().backward()
    model.zero_grad(set_to_none=True)
    kind, distribution = LIBRARIES[request["library"]]
    library = kind(model, tuple(x.shape[1:]), logits.shape[1], request)

    found: dict[str, np.ndarray[Any, Any]] = {}
    measures: dict[str, Any] = {}
    for name, options in request["attacks"].items():
        attack = make(library, name, options)
        seconds = []
        reset_peak()
        before = peak_bytes()
        for _ in range(request["repeats"]):
            seed_everything(request["seed"])
            begin = time.perf_counter()
            x_adv = attack(x.clone(), y.clone())
            seconds.append(time.perf_counter() - begin)
        measures[name] = {"seconds": seconds, "bytes_before": before, "bytes_peak": peak_bytes()}
        found[name] = x_adv.detach().numpy().astype(np.float32)
    np.savez(request["found"], **found)  # type: ignore[arg-type]
    about = {"library": distribution, "version": version(distribution), "attacks": measures}
    Path(request["measures"]).write_text(json.dumps(about), encoding="utf-8")


def make(library: Library, name: str, options: dict[str, Any]) -> Attack:
    """The attack that a request asks for; the library's methods refuse options that they do not know."""
    rest = dict(options)
    kind = rest.pop("kind", name)
    method = None if kind.startswith("_") else getattr(library, kind, None)
    if not callable(method):
        raise SystemExit(f"{type(library).__name__} has no attack {kind!r}")
    attack: Attack = method(**rest)
    return attack


if __name__ == "__main__":
    serve(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
