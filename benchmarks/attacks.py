"""Our attacks against those of other libraries: same model, same images, same machine, one run.

For each network (a small CNN on the bundled digits; timm's ResNet-18 on 32 x 32 pictures made here), undefended and
adversarially trained, and for each number of threads: seconds and memory of PGD-20 in torchattacks, foolbox, ART and
here, and of AutoAttack-standard in pyautoattack and here. Every contender is handed the images that the model gets
right, in a process of its own. Ratios carry over to another machine, seconds do not. The floor is the time of the bare
forward and backward passes that our attack made, at full batches.

    make .venv-peers/ready     # once
    python benchmarks/attacks.py [--networks cnn resnet18] [--threads 1 2] [--long] [--json benchmarks/attacks.json]

Networks are trained once (minutes) and kept under scratch/benchmarks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deconfound.attacks.ascent import Ascent
from deconfound.attacks.autoattack import AutoAttack
from deconfound.attacks.pgd import PGD
from deconfound.data.digits import Digits
from deconfound.data.scenes import Scenes
from deconfound.defenses.adversarial_training import AdversarialTraining
from deconfound.defenses.standard import Standard
from deconfound.defenses.workbench import Workbench
from deconfound.engine import Engine, Speed
from deconfound.models.classifier import Classifier, eval_mode, predict, to_unit
from deconfound.models.small_cnn import SmallCNN
from deconfound.models.speed import folded
from deconfound.models.timm_models import TimmModel
from deconfound.recipe import Recipe
from deconfound.rng import generator, global_seed
from deconfound.storage import read_weights, write_json, write_weights
from deconfound.threat import ThreatModel
from deconfound.training import Trainer
from deconfound.types import Images

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "peers"))
from peers import measure_peer  # noqa: E402

CACHE = ROOT / "scratch" / "benchmarks"
EPS = {"cnn": 0.2, "resnet18": 8 / 255}
COUNT = {"cnn": 400, "resnet18": 64}  # images for PGD
COUNT_AA = {"cnn": 200, "resnet18": 3}
DEFENSES = {"undefended": False, "adversarially trained": True}


def data(network: str) -> tuple[Images, Images]:
    """Training and test images."""
    small = Scenes(classes=4, train=800, test=400, correlation=0.0, noise=0.04, clutter=1, size=0.7)
    source = (Digits(test=500) if network == "cnn" else small).fetch(ROOT / "scratch")
    return source.train.images, source.test.images


def fresh(network: str, train: Images) -> Classifier:
    """An untrained network."""
    shape, classes = tuple(train.x.shape[1:]), int(train.y.max()) + 1
    make = SmallCNN(widths=(16, 32), hidden=64) if network == "cnn" else TimmModel(name="resnet18")
    with global_seed(generator(0, "init", network)):
        model: Classifier = make(shape, classes)
    model.normalise_like(train.x)
    return model


def network_of(network: str, robust: bool) -> Classifier:
    """A trained network, from the cache where it is there."""
    train, test = data(network)
    path = CACHE / f"{network}-{'robust' if robust else 'plain'}.safetensors"
    model = fresh(network, train)
    if not path.exists():
        eps = EPS[network]
        steps = (
            7 if network == "cnn" else 1
        )  # one step from a random start is what a CPU can afford of ResNet-18
        size = eps / 4 if steps > 1 else 1.25 * eps
        ascent = Ascent(threat=ThreatModel(eps=eps), step_size=size, steps=steps)
        defense = AdversarialTraining(ascent=ascent) if robust else Standard()
        recipe = Recipe(epochs=15 if network == "cnn" else 6 if robust else 3, batch_size=64, lr=0.05)
        trainer = Trainer(train, test, recipe, 0, torch.device("cpu"), scratch=None)
        bench = Workbench(train, test, recipe, lambda purpose: model, partial(generator, 0), trainer.fit)
        write_weights(path, defense(bench).model.state_dict())
    model.load_state_dict(read_weights(path))
    return model.eval()


def ours(request: dict[str, Any]) -> dict[str, Any]:
    """Our side, in a process of its own: seconds, memory, verdict, passes, and the floor."""
    torch.set_num_threads(request["threads"])
    model = network_of(request["network"], request["robust"])
    images = right_images(request["network"], model, request["count"])
    attack = attack_of(request)
    speed = Speed()
    warm = Engine(model, Images(images.x[:2], images.y[:2]), 0, speed=speed)
    warm.standing(PGD(eps=0.01, steps=2), "warm", np.arange(2))
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    seconds = []
    for _ in range(request["repeats"]):
        engine = Engine(model, images, 0, speed=speed)
        begin = time.perf_counter()
        left, costs = engine.standing(attack, request["attack"], np.flatnonzero(engine.clean))
        seconds.append(time.perf_counter() - begin)
    peak = memory("VmHWM")
    forward, backward = (sum(getattr(cost, name) for cost in costs) for name in ("forward", "backward"))
    return {
        "seconds": seconds,
        "bytes_before": before,
        "bytes_peak": peak,
        "standing": len(left),
        "forward": forward,
        "backward": backward,
        "floor": floor(model, images, forward, backward),
    }


def floor(model: Classifier, images: Images, forward: int, backward: int) -> float:
    """Seconds of so many bare passes, in images: the folded network, full batches, nothing else."""
    x = to_unit(images.x)
    light = folded(model, x[:4])
    if Speed().last(x):
        x, light = (
            x.contiguous(memory_format=torch.channels_last),
            light.to(memory_format=torch.channels_last),
        )
    both, alone = [], []
    with eval_mode(light):
        for _ in range(3):
            begin = time.perf_counter()
            z = x.clone().requires_grad_(True)
            logits = light(z)
            torch.autograd.grad(logits, z, torch.ones_like(logits))
            both.append(time.perf_counter() - begin)
            with torch.no_grad():
                begin = time.perf_counter()
                light(x)
                alone.append(time.perf_counter() - begin)
    return (backward * min(both) + (forward - backward) * min(alone)) / len(x)


def memory(field: str) -> int:
    """A field of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def attack_of(request: dict[str, Any]) -> Any:
    """PGD-20, or AutoAttack-standard with the paper's numbers."""
    eps = EPS[request["network"]]
    return PGD(eps=eps, steps=20, step_size=eps / 8) if request["attack"] == "pgd" else AutoAttack(eps=eps)


def right_images(network: str, model: Classifier, count: int) -> Images:
    """The first images of the test split that the model gets right."""
    _, test = data(network)
    right = (predict(model, test.x).argmax(1) == test.y).nonzero().flatten()[:count]
    return Images(test.x[right], test.y[right])


def in_a_process(request: dict[str, Any]) -> dict[str, Any]:
    """`ours`, elsewhere."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "request.json").write_text(json.dumps(request))
        environment = os.environ | {"OMP_NUM_THREADS": str(request["threads"])}
        command = [sys.executable, __file__, "--child", str(place)]
        subprocess.run(command, env=environment, check=True)
        found: dict[str, Any] = json.loads((place / "found.json").read_text())
    return found


def compare(network: str, defense: str, attack: str, threads: int, repeats: int) -> list[dict[str, Any]]:
    """A row per contender: seconds (median), memory above the start, images that stand, ratio to ours."""
    count = (COUNT if attack == "pgd" else COUNT_AA)[network]
    request = {"network": network, "robust": DEFENSES[defense], "attack": attack, "threads": threads}
    request |= {"count": count, "repeats": repeats}
    mine = in_a_process(request)
    model = network_of(network, DEFENSES[defense])
    images = right_images(network, model, count)
    eps = EPS[network]
    options = {"pgd": {"eps": eps, "steps": 20, "step_size": eps / 8}, "autoattack": {"eps": eps}}[attack]
    place = {
        "network": network,
        "defense": defense,
        "attack": attack,
        "threads": threads,
        "images": len(images.y),
    }
    base = float(np.median(mine["seconds"]))
    row = place | {"library": "deconfound", "seconds": base, "ratio": 1.0, "standing": mine["standing"]}
    row |= {
        "mebibytes": (mine["bytes_peak"] - mine["bytes_before"]) / 2**20,
        "over_floor": base / mine["floor"],
    }
    rows = [row | {"forward": mine["forward"], "backward": mine["backward"]}]
    peers = ("torchattacks", "foolbox", "art") if attack == "pgd" else ("pyautoattack",)
    for library in peers:
        found = measure_peer(library, {attack: options}, model, to_unit(images.x), images.y,
                             threads=threads, repeats=repeats)[attack]  # fmt: skip
        stands = int((predict(model, torch.from_numpy(found.x_adv)).argmax(1) == images.y).sum())
        seconds = float(np.median(found.seconds))
        row = place | {"library": library, "seconds": seconds, "ratio": seconds / base, "standing": stands}
        rows.append(row | {"mebibytes": (found.bytes_peak - found.bytes_before) / 2**20})
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    """The table, in Markdown."""
    print(
        "| network | model | attack | threads | library | seconds | times ours | stand | MiB | over floor |"
    )
    print("|---|---|---|--:|---|--:|--:|--:|--:|--:|")
    for row in rows:
        over = f"{row['over_floor']:.2f}" if "over_floor" in row else ""
        cells = [row["network"], row["defense"], row["attack"], row["threads"], row["library"]]
        cells += [f"{row['seconds']:.2f}", f"{row['ratio']:.2f}", f"{row['standing']}/{row['images']}"]
        print("| " + " | ".join(map(str, [*cells, f"{row['mebibytes']:.0f}", over])) + " |")


def main() -> None:
    """Train what is missing, compare, print the table, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", nargs="+", choices=list(EPS), default=list(EPS))
    parser.add_argument("--attacks", nargs="+", choices=["pgd", "autoattack"], default=["pgd", "autoattack"])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "attacks.json")
    parser.add_argument(
        "--long", action="store_true", help="AutoAttack on ResNet-18 too (three images, half an hour)"
    )
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        request = json.loads((options.child / "request.json").read_text())
        (options.child / "found.json").write_text(json.dumps(ours(request)))
        return
    rows: list[dict[str, Any]] = []
    for network in options.networks:
        for defense, robust in DEFENSES.items():
            network_of(network, robust)
            for attack in options.attacks:
                if (network, attack) == ("resnet18", "autoattack") and not options.long:
                    continue
                for threads in options.threads:
                    repeats = options.repeats if network == "cnn" and attack == "pgd" else 1
                    rows += compare(network, defense, attack, threads, repeats)
                    print(rows[-1], file=sys.stderr, flush=True)
                    write_json(options.json, {"rows": rows, "processor": os.cpu_count()})
    show(rows)


if __name__ == "__main__":
    main()
