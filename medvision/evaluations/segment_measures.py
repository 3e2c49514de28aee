"""The figures of segmentations, by task: what each is called, how it is defined, and in which direction it is good."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medvision.metrics.instances import THRESHOLDS

BACKGROUND, BOTH, PREDICTED, MISSED, OTHER, IGNORED = range(6)
"""What a pixel of a picture of agreement is."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One figure: `key` in JSON and CSV, `title` and `definition` for a person. `length`: in the unit of the spacing.

    Without a definition it belongs to a series that is shown by itself.
    """

    key: str
    title: str
    definition: str = ""
    higher_is_better: bool = True
    length: bool = False


@dataclass(frozen=True, eq=False)
class Kind:
    """What a task gives: `measures` of each case, and `pooled` ones of all cases together, `main` being the keys of the
    foremost. `sized` is what a case's sizes count, `legend` says what the pixels of its picture are.
    """

    heading: str
    sized: str
    measures: tuple[Measure, ...]
    pooled: tuple[Measure, ...]
    main: tuple[str, ...]
    legend: Mapping[int, str]


SEMANTIC = Kind(
    heading="Segmentation: labels of pixels",
    sized="pixels",
    measures=(
        Measure("dice", "Dice", "2 |P and T| / (|P| + |T|) of a case's mask and its truth, then the mean over cases"),
        Measure("iou", "IoU", "|P and T| / |P or T|, likewise"),
        Measure(
            "hd95",
            "Hausdorff 95",
            "the larger of both directions' 95th percentiles of border distances, as MONAI has it: border pixels have "
            "a neighbour across a side outside of the mask",
            higher_is_better=False,
            length=True,
        ),
        Measure(
            "asd",
            "average surface distance",
            "mean over the border pixels of both masks, each to the nearest of the other",
            higher_is_better=False,
            length=True,
        ),
        Measure(
            "surface_dice",
            "surface Dice",
            "share of both masks' border pixels that are within the tolerance of the other (Nikolov et al. 2018)",
        ),
    ),
    pooled=(
        Measure("pixel_accuracy", "pixel accuracy", "share of all pixels that are right (Long et al. 2015)"),
        Measure(
            "mean_accuracy",
            "mean accuracy",
            "mean over the labels, background included, of the share of its pixels that is right (Long et al. 2015)",
        ),
        Measure("mean_iu", "mean IU", "mean over the labels of the IoU of all cases' pixels (Long et al. 2015)"),
        Measure(
            "frequency_weighted_iu",
            "frequency-weighted IU",
            "the same, weighted by the labels' pixels in the truth (Long et al. 2015)",
        ),
    ),
    main=("dice", "mean_iu"),
    legend={
        BOTH: "right", PREDICTED: "predicted only", MISSED: "truth only", OTHER: "another class", IGNORED: "ignored",
    },
)  # fmt: skip

_F1 = Measure("f1", "F1 at IoU 0.5", "2 TP / (2 TP + FP + FN) of objects matched above an IoU of 0.5")
_PQ = Measure("pq", "panoptic quality", "F1 x mean IoU of the matched pairs (Kirillov et al. 2019)")
_AJI = Measure(
    "aji",
    "aggregated Jaccard",
    "intersections over unions, summed over the truth's objects with their best partners (Kumar et al. 2017)",
)
_SEG = Measure(
    "seg",
    "SEG",
    "mean over the truth's objects of their IoU with the one that covers over half of them (Cell Tracking Challenge)",
)
INSTANCES = Kind(
    heading="Segmentation: objects",
    sized="objects",
    measures=(
        Measure(
            "ap50",
            "AP50",
            "TP / (TP + FP + FN) of objects matched above an IoU of 0.5, mean over images (Data Science Bowl 2018)",
        ),
        Measure("ap", "mean AP", "the mean of such precisions over IoU 0.5, 0.55, ..., 0.95, mean over images"),
        _F1, _PQ, _AJI, _SEG,
        Measure("dice", "Dice", "2 |P and T| / (|P| + |T|) of all objects' pixels, whatever object they are of"),
        *(Measure(f"ap_{t:.2f}", f"AP at IoU {t:g}") for t in THRESHOLDS[1:]),
    ),
    pooled=(
        _F1, Measure("sq", "segmentation quality", "mean IoU of the matched pairs"), _PQ, _AJI, _SEG,
        *(Measure(f"ap_{t:.2f}", f"AP at IoU {t:g}") for t in THRESHOLDS),
    ),
    main=("ap50", "ap"),
    legend={
        BOTH: "matched object", PREDICTED: "predicted only", MISSED: "truth only", OTHER: "objects not matched",
    },
)  # fmt: skip

_SPLIT, _MERGE = "share of it that splits leave", "share of it that mergers leave"
MEMBRANES = Kind(
    heading="Segmentation: cells parted by membranes",
    sized="cells",
    measures=(
        Measure(
            "v_rand",
            "V Rand",
            "F-score of its two parts: pairs of pixels that share a cell in truth and prediction, on the truth's cells "
            "alone (Arganda-Carreras et al. 2015)",
        ),
        Measure("v_rand_split", "V Rand, split", _SPLIT),
        Measure("v_rand_merge", "V Rand, merge", _MERGE),
        Measure("v_info", "V info", "the same of mutual information (Arganda-Carreras et al. 2015)"),
        Measure("v_info_split", "V info, split", _SPLIT),
        Measure("v_info_merge", "V info, merge", _MERGE),
        Measure(
            "warping_error",
            "warping error",
            "share of pixels still wrong when the truth is warped to the prediction without a change of topology (Jain "
            "et al. 2010)",
            higher_is_better=False,
        ),
        Measure(
            "rand_error",
            "Rand error (1 - F)",
            "1 - F-score over pairs of pixels, membranes as thick as predicted (ISBI 2012; adapted Rand error)",
            higher_is_better=False,
        ),
        Measure(
            "rand_index_error",
            "Rand index error",
            "share of pairs of pixels on which truth and prediction disagree (Rand 1971)",
            higher_is_better=False,
        ),
        Measure("pixel_error", "pixel error", "share of pixels that are wrong", higher_is_better=False),
        Measure("membrane_dice", "Dice of membranes", "2 |P and T| / (|P| + |T|) of the membranes' pixels"),
    ),
    pooled=(),
    main=("v_rand", "v_info", "warping_error"),
    legend={
        BOTH: "membrane", PREDICTED: "predicted only", MISSED: "truth only", OTHER: "left after warping",
    },
)  # fmt: skip
