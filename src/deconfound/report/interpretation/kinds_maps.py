"""Layouts of interpretations that look at maps, and at gradients, of single images."""

from collections.abc import Mapping

from deconfound.report.interpretation.layouts import Layout, Pick, Word, score, share
from deconfound.report.interpretation.vocabulary import Form

SHIFTS: Mapping[str, Word] = {
    "spearman": score(
        "rank correlation", "Do the two maps put the pixels in the same order? 1 the same, 0 no relation."
    ),
    "signed_spearman": score("signed rank correlation", "The same, with the sign of every pixel."),
    "top_k": share(
        "top tenth shared", "Of the strongest tenth of the pixels, the share that both maps have."
    ),
    "local_top_k": share("top tenth, with neighbours", "The same; a pixel one step away counts as found."),
    "cosine": score("cosine", "Angle of the two maps with their signs: 1 the same direction, 0 none."),
    "absolute_cosine": score("absolute cosine", "The same of how strongly the pixels count, without signs."),
    "mass_distance": score("mass moved", "How much of the map lies elsewhere: 0 nothing, 2 all."),
    "centre_shift": score("centre moved", "By how many pixels the centre of the map moved."),
    "sparsity_change": score(
        "sparsity change", "Change of the Gini index: above 0, the map is on fewer pixels."
    ),
}
NORMALISED: Mapping[str, Word] = {
    f"{name}_normalised": score(
        f"{word.name}, normalised",
        f"{word.name[0].upper()}{word.name[1:]} on a scale of its controls: 1 is what noise of the same size does, 0 "
        "is as far off as another image.",
    )
    for name, word in SHIFTS.items()
}
MASSES: Mapping[str, Word] = {
    "share": share("mass inside", "Share of the map's strength that lies inside the region."),
    "ratio": score(
        "mass ratio", "That share over the region's share of the area: 1 is a map without preference."
    ),
    "pointing": share("pointing game", "Share of images whose strongest pixel lies inside."),
    "iou": score(
        "overlap", "Intersection over union of the region and as many of the strongest pixels: 1 is perfect."
    ),
    "uncovered": share(
        "not covered", "Share of the trigger that is not among as many of the strongest pixels."
    ),
    "recovered": share(
        "recovered",
        "Share of images that get their true class back when the strongest pixels are made clean again.",
    ),
}
SHIFT = Layout(
    title="How far maps move under attack",
    lead="A map is made for the untouched image and again for the attacked one, and the two are compared. High "
    "agreement: the model still looks at the same place. Read no number alone: below each stands the same number for "
    "random noise of the same size, and for another image of the same class. Where an attack does no more than "
    "noise, the evidence has not moved. And a map for another class is another map: compare the rows of one rule. "
    "What it does not show: whether the map was right to begin with (next section).",
    words={
        **SHIFTS,
        **NORMALISED,
        "fooled_rank": score(
            "over classes, map and answer",
            "Rank correlation over classes: 1, the maps of those classes move most that the attack turns most.",
        ),
        "fooled": share("misread", "Share of the correctly classified images that are misread."),
    },
    situations={
        "success": "attack succeeded",
        "failure": "attack failed",
        "noise": "random noise of the same size",
        "floor": "another image of the class",
        "attack": "attacked",
        "classes": "over classes",
    },
    beside={"noise": "noise", "floor": "other image"},
    headline=(
        Pick(
            condition="success_true", metric="spearman", title="rank correlation", note="success, true class"
        ),
        Pick(
            condition="success_true",
            metric="top_k",
            title="top tenth shared",
            note="success, true class; per cent",
        ),
        Pick(
            condition="success_true",
            metric="spearman_normalised",
            title="normalised",
            note="1: like noise, 0: like another image",
        ),
        Pick(
            condition="success_pred",
            metric="spearman",
            title="rank correlation",
            note="success, predicted class",
        ),
        Pick(condition="failure.*", metric="spearman", title="rank correlation", note="attack failed"),
    ),
    each=True,
)
OBJECT = Layout(
    title="Does the model look at the object?",
    lead="In these images it is known which pixels show the object. The share of the map's strength that lies on it "
    "says whether the model looks there; the object's share of the area is what a map without preference would have, "
    "so the ratio of the two counts. A floor stands below: the same map against the place of another image's object. "
    "The intervention beside it: erase the object, or the ground, and see which changes the answer. A high mass does "
    "not show that the object is understood, and a low one may be the fault of a coarse map.",
    words={
        **MASSES,
        "agrees": Word(
            "map and erasing",
            Form.PASSED,
            "Passed where the map and the erasing say the same of whether the object or the ground decides.",
        ),
        "changed": share("answer changed", "Share of images whose predicted class changes."),
        "label_logit_change": Word(
            "change of the logit", meaning="By how much the logit of the true class changes."
        ),
    },
    situations={
        "clean": "untouched",
        "moved": "another style, do(style)",
        "success": "attack succeeded",
        "failure": "attack failed",
        "noise": "random noise",
        "floor": "another image's object",
        "erasure": "map against erasing",
        "object_erased": "object erased",
        "ground_erased": "ground erased",
    },
    beside={"floor": "other object"},
    headline=(
        Pick(condition="clean_.*", metric="ratio", title="mass ratio", note="untouched, best map"),
        Pick(
            condition="clean_.*",
            metric="pointing",
            title="pointing game",
            note="untouched, best map; per cent",
        ),
        Pick(condition="moved_.*", metric="ratio", title="mass ratio", note="under do(style), best map"),
        Pick(
            subject="model",
            condition="object_erased",
            metric="changed",
            title="answer changed",
            note="object erased; per cent",
        ),
        Pick(
            subject="model",
            condition="ground_erased",
            metric="changed",
            title="answer changed",
            note="ground erased; per cent",
        ),
    ),
)
TRIGGER = Layout(
    title="Does the model look at the trigger?",
    lead="The pixels that the trigger changes are known. A backdoored model's maps lie on them far beyond their "
    "share of the area; after a defense that works they should do so no more than in a model that never saw the "
    "trigger. The intervention beside it: fill the trigger's place and see whether the true class comes back (gain), "
    "and put the trigger in and see how much the attacker's logit rises. Believe the pair, not the map alone: coarse "
    "maps such as Grad-CAM cannot resolve a small trigger.",
    words={
        "hoped": share("obeys", "Share of triggered images that get the attacker's class."),
        "right": share("right", "Share of triggered images that get their true class."),
        "gain": share("gain", "Rise of that share when the trigger is erased."),
        "asr_drop": share("fall of success", "Fall of the attack's success when the trigger is erased."),
        "hoped_logit_drop": Word(
            "fall of the attacker's logit", meaning="Fall of the attacker's logit when the trigger is erased."
        ),
        "hoped_logit": Word(
            "attacker's logit", meaning="Rise of the attacker's logit when the trigger is put in."
        ),
        "label_logit": Word(
            "true class's logit", meaning="Rise of the true class's logit when the trigger is put in."
        ),
        "changed_share": share("pixels changed", "Share of the pixels that the trigger changes."),
        "area": share("area of the mask", "Share of the pixels that stand for the trigger."),
        **MASSES,
    },
    situations={
        "stamped": "with trigger",
        "clean": "without trigger",
        "deleted": "trigger erased",
        "inserted": "trigger put in",
        "biased_stamped": "with trigger, in CBD's biased twin",
        "biased_inserted": "trigger put in, in CBD's biased twin",
        "reference_stamped": "with trigger, in a network trained without poison",
        "reference_inserted": "trigger put in, in a network trained without poison",
    },
    beside={"clean": "without trigger"},
    headline=(
        Pick(
            condition="stamped_hoped",
            metric="ratio",
            title="mass ratio",
            note="with trigger, attacker's class, highest map",
        ),
        Pick(condition="stamped_hoped", metric="share", title="mass inside", note="the same, per cent"),
        Pick(
            subject="trigger", condition="stamped", metric="hoped", title="obeys the trigger", note="per cent"
        ),
        Pick(subject="trigger", condition="deleted", metric="gain", title="gain when erased", note="points"),
        Pick(
            subject="trigger",
            condition="inserted",
            metric="hoped_logit",
            title="attacker's logit",
            note="rise when put in",
        ),
    ),
)
MAP_KINDS: Mapping[str, Layout] = {
    "attribution_shift": SHIFT,
    "object_mass": OBJECT,
    "trigger_mass": TRIGGER,
}
