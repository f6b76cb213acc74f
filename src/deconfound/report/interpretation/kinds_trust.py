"""Layouts of interpretations that put explanations themselves to the test."""

from collections.abc import Mapping

from deconfound.report.interpretation.kinds_maps import SHIFTS
from deconfound.report.interpretation.layouts import Layout, Pick, Word, score, share
from deconfound.report.interpretation.vocabulary import Form


def verdict(name: str, meaning: str) -> Word:
    """A check that a map passed (1) or failed (0)."""
    return Word(name, Form.PASSED, meaning)


TRUST = Layout(
    title="Which map can be trusted",
    lead="A map can look sensible and say nothing about the model: some maps hardly change when the weights are "
    "drawn anew. So each kind of map is put to tests with a known answer. Taking away what it marks must hurt the "
    "score more than taking away random pixels (deletion), putting it back must help more (insertion); with random "
    "weights, or a network trained on shuffled labels, the map must change; where a map promises that its pixels sum "
    "to the score, they must; and another seed must not give another map. A map that fails a test carries a dagger "
    "on this page. Passing proves no map right: it only survived.",
    across="reading",
    words={
        "verdict.marked": Word("verdict", Form.FAILED, "Failed where any of the checks failed."),
        "deletion.gain": score(
            "deletion, gain",
            "How much faster the score falls than with random pixels; above 0 is better than random.",
        ),
        "insertion.gain": score("insertion, gain", "How much faster it rises than with random pixels."),
        "labels.agreement": score(
            "agreement, shuffled labels",
            "Rank correlation with the map of a network that learnt nonsense; low is good.",
        ),
        "baseline.relative_error_median": share(
            "sum missing, median",
            "What the pixels' sum lacks to the difference that it promises; above 5 % is a fault.",
        ),
        "baseline.relative_error_p95": share(
            "sum missing, worst twentieth", "The same, exceeded by 5 % of the images."
        ),
        "seeds.stability": score(
            "stability", "Rank correlation between maps under different seeds; 1 is the same map."
        ),
        "noise.infidelity": Word(
            "infidelity", meaning="Squared error of what the map predicts under noise (logits)."
        ),
        "neighbours.max_sensitivity": score(
            "sensitivity", "Largest change of the map close by, over its size."
        ),
        "verdict.passes_deletion": verdict("deletion", "The gain is above 0 beyond its error."),
        "verdict.passes_insertion": verdict("insertion", "The same of insertion."),
        "verdict.passes_weights": verdict(
            "random weights", "The agreement is below 0.5 after the head, and after all."
        ),
        "verdict.passes_labels": verdict("shuffled labels", "The agreement is below 0.5."),
        "verdict.passes_completeness": verdict("sum", "The relative error is below 5 % (median) and 20 %."),
        "verdict.passes_seeds": verdict("seeds", "The stability is at least 0.8."),
        "deletion.area": score(
            "deletion, area", "Mean score while pixels go, most important first; low is good."
        ),
        "deletion.random_area": score("deletion, random order"),
        "insertion.area": score(
            "insertion, area", "Mean score while pixels come, most important first; high is good."
        ),
        "insertion.random_area": score("insertion, random order"),
        "baseline.error": Word("sum missing", meaning="The same in logits."),
        "baseline.relative_error": share("sum missing, mean"),
        "agreement": score(
            "agreement", "Signed rank correlation with the map of the network with fresh layers."
        ),
    },
    patterns={r"weights_(\d+)_(.+)": "layers drawn anew down to {1}"},
    headline=(
        Pick(condition="verdict", metric="marked", title="verdict"),
        Pick(condition="deletion", metric="gain", title="deletion, gain", note="above 0 passes"),
        Pick(condition="insertion", metric="gain", title="insertion, gain", note="above 0 passes"),
        Pick(
            condition="weights_00_.*",
            metric="agreement",
            title="agreement",
            note="head drawn anew; below 0.5 passes",
        ),
        Pick(
            condition="labels",
            metric="agreement",
            title="agreement",
            note="shuffled labels; below 0.5 passes",
        ),
        Pick(
            condition="baseline",
            metric="relative_error_median",
            title="sum missing",
            note="per cent; at most 5 passes",
        ),
        Pick(condition="seeds", metric="stability", title="stability", note="at least 0.8 passes"),
    ),
    each=True,
)
EXPLANATION = Layout(
    title="Attacks on explanations",
    lead="Here the attacker leaves the answer alone and moves the map: a small change of the pixels after which the "
    "prediction is the same and the map marks other pixels. The attack is aimed at one kind of map; whether others "
    "move along is measured too. Random noise of the same size stands below: only what the attack moves beyond noise "
    "is its own doing. A map that can be moved so easily is poor evidence, whatever it shows.",
    words={
        "kept": share("answer kept", "Share of the images whose prediction stays."),
        "top_k_below_noise": share(
            "below noise",
            "Top tenth shared under noise minus that under attack; above 0 the attack does more than noise.",
        ),
        **SHIFTS,
        "log_ratio": score(
            "attention, log ratio",
            "Attention for the label over that for its rival; above 0 the label has more.",
        ),
        "log_ratio_change": score("change of it", "Below 0: the attack takes attention from the label."),
        "fooled": share("misread", "Share of the correctly classified images that are misread."),
    },
    situations={"attacked": "attacked", "noise": "random noise", "clean": "untouched"},
    beside={"noise": "noise"},
    headline=(
        Pick(subject="prediction", condition="attacked", metric="kept", title="answer kept", note="per cent"),
        Pick(
            subject="aimed_at",
            condition="attacked",
            metric="top_k",
            title="top tenth shared",
            note="map under attack; per cent",
        ),
        Pick(
            subject="(?!aimed_at).*",
            condition="attacked",
            metric="top_k",
            title="top tenth shared",
            note="other map that moves most; per cent",
            take="lowest",
        ),
        Pick(
            subject="(?!aimed_at).*",
            condition="attacked",
            metric="top_k_below_noise",
            title="below noise",
            note="largest; points",
        ),
    ),
    order=("prediction", "aimed_at", "saliency", "integrated_gradients"),
)
PANEL = Layout(
    title="Robustness and interpretability",
    lead="Robust models are said to have gradients that look like the image. One side of the sentence is alignment: "
    "how far the gradient of the score points along the image. The other is the distance to the closest misread "
    "image. The linearised distance, margin over gradient norm, links the two. Compare models, and compare alignment "
    "with its floor, the same for another image. The masking alarm guards it all: if an attack on the margin is "
    "stronger than one on the loss, small gradients hide weakness instead of showing robustness.",
    across="model",
    subjects="",
    words={
        "alpha": score(
            "alignment α", "|⟨x, g⟩| / |g|, in pixel units; large: the gradient points along the image."
        ),
        "alpha_centred": score("α, centred", "The same with the mean colour taken off the image."),
        "cosine": score(
            "cosine of image and gradient", "1: the gradient is the image; 0: it has nothing to do with it."
        ),
        "norm": Word("gradient of the logit", meaning="Its length; small: pixels move the score little."),
        "loss_norm": Word(
            "gradient of the loss", meaning="Its length; near 0 an attack on the loss is blind."
        ),
        "variation": score("roughness", "Total variation of the gradient over its size; high: noise-like."),
        "boundary.attacked.l2": Word(
            "distance to a misread image, L2", meaning="The closest that an attack found."
        ),
        "boundary.linearised.l2": Word(
            "linearised distance, L2", meaning="Smallest margin over its gradient's norm."
        ),
        "boundary.linearised.rank_correlation": score("rank correlation with the distance", "Over images."),
        "boundary.alpha.rank_correlation": score("rank correlation with the distance", "Over images."),
        "masking.cross_entropy.right": share("still right, attack on the loss"),
        "masking.margin.right": share("still right, attack on the margin"),
        "masking.alarm.gap": share("masking gap", "The first minus the second; above 5 points is an alarm."),
        "zero_gradient": share("zero gradients", "Share of images whose loss has a gradient of exactly 0."),
        "painted.model.target": share("painted images taken for their target"),
        "target": share(
            "taken for the target", "Share of the painted images that are taken for their target."
        ),
        "accuracy": share("accuracy of the judge"),
    },
    situations={
        "clean": "untouched images",
        "other_image": "another image",
        "attacked": "closest adversarial image",
        "linearised": "linearised distance",
        "alpha": "alignment",
        "cross_entropy": "attack on the loss",
        "margin": "attack on the margin",
        "model": "the model itself",
        "judge": "an independent network",
    },
    beside={"other_image": "another image"},
    order=("gradient", "boundary", "masking", "painted"),
)
TRUST_KINDS: Mapping[str, Layout] = {
    "map_trust": TRUST,
    "explanation_attack": EXPLANATION,
    "robust_interpretability": PANEL,
}
