"""Layouts of interpretations that hold a model against known causes: style, perturbation, concepts, training images."""

from collections.abc import Mapping

from deconfound.report.interpretation.layouts import Layout, Pick, Word, score, share

STYLE = Layout(
    title="Does the answer depend on the style?",
    lead="These pictures are made with a known graph: the label decides the object, the style the ground. do(style) "
    "draws the ground anew and leaves the object. So how far an answer owes to the style is seen, not guessed: a "
    "model that looks at the object does not change its answer. CausalAdv claims to split the features into content "
    "and style; here the split is checked: under do(style) the features must move inside the style part, between "
    "classes inside the content part, and a small classifier (probe) must find the style in the one and the label in "
    "the other. A probe that finds something shows that it is there, not that the model uses it.",
    across="model",
    words={
        "model.do_style.changed": share(
            "answer changed", "Share of images whose answer changes under do(style)."
        ),
        "right_before": share("right before"),
        "right_after": share("right after"),
        "output_kl": Word(
            "change of the output, nats", meaning="Kullback–Leibler divergence of the outputs."
        ),
        "label_logit_change": Word("change of the label's logit"),
        "style_logit_change": Word(
            "change of the style's logit", meaning="Logit of the class that the new style goes with."
        ),
        "follows_label": share(
            "follows the label", "Of images whose style goes with another class: answers by the object."
        ),
        "follows_style": share("follows the style", "Of the same images: answers by the ground."),
        "style_by_chance": share(
            "style by chance", "What the last number would be if errors fell on all classes alike."
        ),
        "style_share": share(
            "share in the style part", "Share of the squared change of the features inside the style part."
        ),
        "above_other_label": share(
            "above another label", "do(style) minus another label; 0: the split knows no style."
        ),
        "right": share("probe right", "Share of held-out images whose style or label the probe names."),
        "chance": share("by chance", "Share of the largest class."),
    },
    situations={
        "do_style": "under do(style)",
        "original": "as they are",
        "other_label": "to another label, same style",
        "same_label": "to the same label, same style",
        "weights": "weights of the head",
        "chance": "random direction",
        "probe_style": "probe for the style",
        "probe_label": "probe for the label",
    },
    beside={"same_label": "same label"},
    order=(
        *("model", "prediction", "head", "defense", "features", "head_content", "head_style"),
        *("defense_content", "defense_style"),
    ),
)
PATTERNS = Layout(
    title="What the perturbation does, pixel by pixel",
    lead="An attacked image is the natural image plus a perturbation. The change of the scores is split exactly "
    "among the pixels of the perturbation: what lowers the score of the label (suppression) and what raises that of "
    "the wrong class (promotion). Noise of the same size stands below. NAMID holds that a defense should rest on the "
    "natural pattern: then the perturbation adds less to the wrong class, and gradients are less rough and lie on "
    "the natural evidence. The split is exact for the path from image to attacked image; another path gives another "
    "split.",
    across="model",
    words={
        "suppression": Word("suppression", meaning="By how much it lowers the logit of the label."),
        "promotion": Word("promotion", meaning="By how much it raises the logit of the wrong class."),
        "suppression_share": share("suppression's share", "Of the sum of the two."),
        "promotion_to_label": score(
            "promotion over label", "Promotion over how far the label's logit stood above the mean."
        ),
        "suppressing_pixels": share(
            "suppressing pixels", "Share of the changed pixels that do more to the label."
        ),
        "gradient_cosine": score("cosine with the gradient"),
        "object_share": share("mass on the object"),
        "object_ratio": score("mass ratio on the object", "1: no preference for the object."),
        "energy_outside": share(
            "gradient outside", "Energy of the gradient outside the natural image's evidence."
        ),
        "high_frequency": share("high frequency", "Share of the gradient's energy in fine detail."),
        "completeness_error": score("sum missing", "What the split lacks, relative; it should be near 0."),
    },
    situations={
        "success": "attack succeeded",
        "failure": "attack failed",
        "noise": "random noise",
        "clean": "untouched images",
        "by_chance": "white noise",
    },
    beside={"noise": "noise", "by_chance": "white noise"},
    order=("perturbation", "natural", "gradient"),
)
CONCEPTS = Layout(
    title="Concepts",
    lead="A concept is given by examples: images with stripes, with a red tint, with the trigger. In the network's "
    "features a direction leads to it. The number is the share of images whose score grows along that direction; 50 "
    "% is no relation. It means nothing alone: all images of a class may share a sign, so a test on images stands "
    "beside it (p), and the range of random sets in the concept's place. Expected: the trigger is near 100 % for the "
    "attacker's class in a backdoored model, and like random in a clean one. It shows that the score reacts to the "
    "concept, not that the model thinks in it.",
    subjects="concept",
    words={
        "share": share("score grows", "Share of the images whose logit grows along the concept's direction."),
        "p": Word(
            "p",
            meaning="Welch test that images with and without the concept lie alike along the mean slope; below 0.05 "
            "they differ.",
        ),
        "significant": share("classes with p below 0.05", "Of concepts that have a form for every class."),
        "null_low": share("random, from", "Central 95 % of the shares of random directions."),
        "null_high": share("to"),
        "score": score("inconsistency", "0: the concepts in the image are those of its predicted class."),
        "auroc": share("AUROC", "Chance that an attacked image is less consistent than an untouched one."),
    },
    situations={
        "own_class": "for the image's own class",
        "next_class": "for the next class",
        "target": "for the attacker's class, on its images",
        "victims": "for the attacker's class, on victims",
        "clean": "untouched",
        "attack": "attacked",
        "trigger": "with trigger",
    },
    headline=(
        Pick(
            subject="trigger",
            condition="victims",
            metric="share",
            title="trigger",
            note="score grows; per cent",
        ),
        Pick(subject="trigger", condition="victims", metric="p", title="p", note="trigger against random"),
        Pick(
            subject="style",
            condition="own_class",
            metric="share",
            title="own ground",
            note="score grows; per cent",
        ),
        Pick(
            subject="adversarial",
            condition="own_class",
            metric="share",
            title="perturbation",
            note="score grows; per cent",
        ),
        Pick(subject="consistency", metric="auroc", title="AUROC", note="consistency check; per cent"),
    ),
    order=("trigger", "style", "adversarial", "stripes", "tint", "noise", "consistency"),
)
INFLUENCE = Layout(
    title="Training images behind an answer",
    lead="Which training images pulled the model towards its answer on a test image, and which away from it? "
    "Influence is estimated in the last layer alone. If triggered images owe their answer to poisoned training "
    "images, these crowd the top of the list beyond their share of the images with that label, which stands beside "
    "it. A training image's influence on itself finds poison in one of its two tails: wrong labels are hard and "
    "stand in the high one, triggers are easy and often stand in the low one. It ranks; it does not show what would "
    "happen without the images.",
    across="model",
    words={
        "influence.trigger.poisoned": share(
            "poison among the most helpful", "Share of poison among them, per image."
        ),
        "influence.trigger.poisoned_of_label": share(
            "poison in that label", "What draws from the label would have."
        ),
        "poisoned": share("poison among the most helpful"),
        "poisoned_of_label": share("poison in that label"),
        "same_label": share(
            "same label", "Share of the most helpful images that bear the label of the answer."
        ),
        "influence.train.poisoned": share("poison in the training set"),
        "auroc_high": share(
            "AUROC, high tail", "Chance that poison has more influence on itself than a clean example."
        ),
        "auroc_low": share(
            "AUROC, low tail", "The same for less influence: one hundred minus the last number."
        ),
    },
    situations={
        "trigger": "with trigger",
        "attack": "attacked",
        "clean": "untouched",
        "train": "training images",
    },
    order=("influence", "self_influence"),
)
POISONING = Layout(
    title="How few training images decide an answer",
    lead="An attacker may change a few training images a little, so that one chosen test image is misread by a head "
    "that is trained anew. Influence says which images, and how. Random noise on the same images stands beside it: "
    "what noise does too is no attack. The correlation of predicted and real changes says how far influence can be "
    "believed here. Only the last layer is trained again; with a whole training run the effect is smaller.",
    across="model",
    words={
        "flipped": share("misread afterwards", "Share of the chosen test images that the new head misreads."),
        "loss_change": Word(
            "change of the loss, nats", meaning="On the chosen image; above 0 it got harder."
        ),
        "correlation": score(
            "predicted and real change", "Correlation over the chosen images: 1, influence is right."
        ),
        "right": share("right before", "Share of the test images that the head gets right."),
    },
    situations={"influence": "changed along influence", "noise": "random noise", "clean": "untouched"},
    beside={"noise": "noise"},
    order=("head", *(f"images_{count}" for count in range(1, 101))),
)
CAUSE_KINDS: Mapping[str, Layout] = {
    "style_dependence": STYLE,
    "patterns": PATTERNS,
    "concepts": CONCEPTS,
    "influential_examples": INFLUENCE,
    "influence_poisoning": POISONING,
}
