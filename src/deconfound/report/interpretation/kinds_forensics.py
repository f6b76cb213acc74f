"""Layouts of interpretations that look for the poison itself: in the training images, and in the network."""

from collections.abc import Mapping

from deconfound.report.interpretation.layouts import Layout, Pick, Word, score, share

FORENSICS = Layout(
    title="The lists of suspicious training images",
    lead="Each detector puts the training images in order, the most suspicious first. n is the number of poisoned "
    "images, which no detector is told. If a list were random, AUROC and the upper half would be 50 %, precision the "
    "share of poison in the training set, and recall half as much again. Read a list from both ends: triggers are "
    "easy to learn, so what looks for hard images puts them last, and an AUROC near 0 has found the poison as well as "
    "one near 100 %; only nobody knows beforehand which end to read. A good order does not say where the poison ends: "
    "how many images to throw out is another question (flagged). And every training set has a most suspicious image: "
    "many detectors flag a fixed share, also where nothing is poisoned.",
    subjects="detector",
    words={
        "auroc": share(
            "AUROC", "Chance that a poisoned image is more suspicious than a clean one: 50 % is a coin."
        ),
        "precision_at_n": share("precision at n", "Share of poison among the n most suspicious images."),
        "recall_at_1_5n": share(
            "recall at 1.5 n", "Share of the poison that is among the 1.5 n most suspicious images."
        ),
        "upper_half": share(
            "poison in the upper half",
            "Share of the poison in the more suspicious half of the list. 100 %: it sits in the high tail; 0 %: in the "
            "low one; 50 %: in neither, or in both.",
        ),
        "precision_from_below": share(
            "precision at n, from below", "Share of poison among the n least suspicious images."
        ),
        "class_named": share(
            "names the class",
            "Share of seeds in which the label of whose images most are among the n most suspicious is the poison's.",
        ),
        "flagged": share(
            "flagged", "Share of the training images that the detector would throw out by its own rule."
        ),
    },
    situations={"train": "training images"},
    headline=(
        Pick(metric="auroc", title="AUROC", note="per cent"),
        Pick(metric="precision_at_n", title="precision at n", note="per cent"),
        Pick(metric="recall_at_1_5n", title="recall at 1.5 n", note="per cent"),
        Pick(metric="upper_half", title="upper half", note="share of the poison, per cent: which tail"),
        Pick(metric="precision_from_below", title="precision at n", note="from below, per cent"),
        Pick(metric="class_named", title="names the class", note="per cent of seeds"),
        Pick(metric="flagged", title="flagged", note="per cent of the training images"),
    ),
    each=True,
)
INVERSION = Layout(
    title="Reversed triggers",
    lead="For every class the smallest patch is sought that sends all images there. In a backdoored network the patch "
    "of the attacker's class can be much smaller than the others, since it only has to set off the trigger. The "
    "anomaly index says how many deviations a mask lies below the median of all classes; above 2 the class is "
    "accused. With few classes one always stands out, in clean networks too: so look at the row of the clean network "
    "first, and at the ratio to the median, which should be below a quarter. Overlap is known to the judge alone: "
    "how much of the reversed mask lies where the trigger does. A small mask elsewhere on the image is a shortcut "
    "that the network has, but not the one that was planted.",
    subjects="class",
    words={
        "norm": Word("mask, pixels", meaning="Sum of the mask: how many pixels the patch covers."),
        "ratio": score(
            "over the median", "The mask over the median mask of all classes; below 0.25 is suspicious."
        ),
        "index": score(
            "anomaly index", "Deviations below the median; a class above 2 is accused if its patch works."
        ),
        "success": share(
            "patch works",
            "Share of the held-out images that the patch sends to the class; 98 % is asked for.",
        ),
        "accused": share("accused", "Share of seeds in which the class is accused."),
        "convincing": share(
            "accused and small", "Share of seeds in which its mask is below a quarter of the median as well."
        ),
        "iou": score(
            "overlap with the trigger",
            "Intersection over union of the pixels that the trigger changes and as many of the strongest of the mask: "
            "1 is perfect. Other classes' masks show what chance gives.",
        ),
    },
    situations={"inverted": "reversed trigger"},
    headline=(
        Pick(
            subject=r"class_\d+", metric="ratio", title="smallest mask", note="over the median", take="lowest"
        ),
        Pick(subject=r"class_\d+", metric="index", title="highest index", note="of all classes"),
        Pick(subject="target", metric="norm", title="attacker's class", note="mask, pixels"),
        Pick(subject="target", metric="ratio", title="attacker's class", note="over the median"),
        Pick(subject="target", metric="index", title="attacker's class", note="anomaly index"),
        Pick(subject="target", metric="accused", title="attacker's class", note="accused, per cent of seeds"),
        Pick(subject="target", metric="iou", title="attacker's class", note="overlap with the trigger"),
    ),
    order=("target", *(f"class_{label}" for label in range(1000))),
)
FORENSIC_KINDS: Mapping[str, Layout] = {"poison_forensics": FORENSICS, "trigger_inversion": INVERSION}
