"""Layouts of interpretations that look at detectors, components, concepts and training images."""

from collections.abc import Mapping

from deconfound.report.interpretation.layouts import Layout, Pick, Word, score, share

DETECTION = Layout(
    title="Detecting attacked images",
    lead="A detector scores every image; above a threshold that flags 5 % of untouched held-out images it raises an "
    "alarm. The number that counts is the share of images that an attacker turns wrong without an alarm, once for an "
    "attacker who does not know of the detector (oblivious) and once for one who does (adaptive). A detector that "
    "only stops the first stops nobody who has read about it. An alarm on images with harmless noise of the same "
    "size is a false one: a detector that cannot tell noise from attack detects change, not danger.",
    subjects="detector",
    words={
        "evaded": share(
            "success, undetected",
            "Share of the correctly classified images that are misread without an alarm.",
        ),
        "success": share("success", "Share of the correctly classified images that are misread."),
        "detected": share("detected", "Share of the misread images that raise an alarm."),
        "auroc": share(
            "AUROC", "Chance that a misread image is more suspicious than an untouched one: 50 % is a coin."
        ),
        "noise_auroc": share(
            "AUROC, noise", "The same for harmless noise of the same size; it should be 50 %."
        ),
        "over_noise_auroc": share(
            "AUROC, over noise", "Chance that a misread image is more suspicious than noise."
        ),
        "noise_alarms": share(
            "alarms on noise", "Share of images with noise of the same size that raise an alarm."
        ),
        "false_alarms": share(
            "false alarms", "Share of untouched test images that raise an alarm; 5 % is intended."
        ),
    },
    situations={"oblivious": "oblivious attacker", "adaptive": "adaptive attacker", "clean": "untouched"},
    patterns={"(.+)_on_(.+)": "learnt from {0}, tested on {1}"},
    headline=(
        Pick(condition="oblivious", metric="evaded", title="success, undetected", note="oblivious; per cent"),
        Pick(condition="adaptive", metric="evaded", title="success, undetected", note="adaptive; per cent"),
        Pick(condition="adaptive", metric="success", title="success", note="adaptive; per cent"),
        Pick(condition="oblivious", metric="auroc", title="AUROC", note="oblivious; per cent"),
        Pick(condition="clean", metric="false_alarms", title="false alarms", note="untouched; per cent"),
        Pick(
            condition="oblivious", metric="noise_alarms", title="alarms on noise", note="oblivious; per cent"
        ),
    ),
    each=True,
)
COMPONENTS = Layout(
    title="What single units answer to",
    lead="Selectivity: does a unit answer to one class (1) or to all alike (0)? Change: how far a trigger moves the "
    "units, beside random noise of the same size. If a few units move much more than the rest (top three over "
    "median), the backdoor lives in few units. Overlap (network dissection): does a unit fire where the object, or "
    "the trigger, lies? None of this shows that a unit is the cause: for that it is taken away, below.",
    across="model",
    words={
        "selectivity_mean": score(
            "selectivity", "Mean over the units: 0 answers to all classes alike, 1 to one."
        ),
        "selectivity_q10": score("10 % below"),
        "selectivity_q50": score("median"),
        "selectivity_q90": score("90 % below"),
        "selectivity_above_half": share(
            "units above 0.5", "Share of the units with a selectivity above 0.5."
        ),
        "silent": share("silent units", "Share of the units that answer to no test image."),
        "relative_change": score("relative change", "Change of the whole layer over its length, per image."),
        "change_mean": Word("change", meaning="Mean change of a unit under the trigger."),
        "change_concentration": Word(
            "top three over median", meaning="How far the three units that move most stand out."
        ),
        "change_top_share": share("share of the top three", "Their part of the whole change."),
        "sensitivity_mean": Word("sensitivity", meaning="Mean change of a unit under attack, per position."),
        "sensitivity_concentration": Word("top three over median, attack", meaning="The same under attack."),
        "sensitivity_top_share": share("share of the top three, attack", "Their part of the whole change."),
        "iou_max": score("best overlap", "Highest overlap of a unit with the region."),
        "iou_detectors": share("detecting units", "Share of the units whose overlap is above 0.04."),
        "matched_iou_max": score(
            "best overlap, same area", "The same with as many positions as the region has."
        ),
        "matched_iou_chance": score("by chance", "What a unit without relation to the region would have."),
        "conductance_top_share": share("conductance of the top three"),
        "conductance_rank": score(
            "conductance, rank correlation", "Do the units that move most also carry the logit?"
        ),
    },
    situations={
        "clean": "untouched images",
        "trigger": "under the trigger",
        "attack": "under attack",
        "object": "on the object",
        "trigger_absent": "on the trigger's place, without it",
    },
    beside={"*_noise": "noise", "*_absent": "without it"},
    order=("last_conv", "penultimate"),
)
PRUNING = Layout(
    title="What is lost when units are taken away",
    lead="Units of the last convolution are silenced one after the other, without training afterwards: the least "
    "active first (as fine-pruning does), those with the smallest weights, in random order, or those first that the "
    "trigger moves most. The last order knows the trigger and no defense can use it; it shows the best that pruning "
    "could do. If the attack's success falls only together with accuracy, the backdoor shares its units with the "
    "clean task.",
    subjects="layer",
    words={
        "clean": share("accuracy", "Share of the untouched test images classified right."),
        "asr": share("attack success", "Share of the triggered images that get the attacker's class."),
        "half_asr_share": share(
            "units taken", "Share of the units at which the attack succeeds half as often."
        ),
        "half_asr_clean": share("accuracy there", "Accuracy at that share."),
    },
    situations={
        "unpruned": "nothing taken away",
        "activation": "least active first",
        "weight": "smallest weight first",
        "random": "random order",
        "change": "moved most by the trigger first",
    },
    patterns={
        r"activation_([\dp]+)": "least active first, {0} %",
        r"weight_([\dp]+)": "smallest weight first, {0} %",
        r"random_([\dp]+)": "random order, {0} %",
        r"change_([\dp]+)": "moved most by the trigger first, {0} %",
    },
    headline=(
        Pick(condition="unpruned", metric="clean", title="accuracy", note="nothing taken; per cent"),
        Pick(condition="unpruned", metric="asr", title="attack success", note="nothing taken; per cent"),
        Pick(
            condition="activation",
            metric="half_asr_share",
            title="units until half",
            note="least active first; per cent",
        ),
        Pick(
            condition="activation",
            metric="half_asr_clean",
            title="accuracy there",
            note="least active first; per cent",
        ),
        Pick(
            condition="change",
            metric="half_asr_share",
            title="units until half",
            note="knows the trigger; per cent",
        ),
        Pick(
            condition="change",
            metric="half_asr_clean",
            title="accuracy there",
            note="knows the trigger; per cent",
        ),
    ),
)
MODEL_KINDS: Mapping[str, Layout] = {
    "adversarial_detection": DETECTION,
    "components": COMPONENTS,
    "prune_curve": PRUNING,
}
