"""FROC and lesion hits against a plain re-implementation of the official rules, MONAI, and published counts."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from monai.apps.pathology.utils import compute_isolated_tumor_cells, compute_multi_instance_mask
from monai.metrics import compute_fp_tp_probs, compute_froc_curve_data, compute_froc_score
from scipy import ndimage
from skimage.measure import label, regionprops

from medvision.core.errors import UsageError
from medvision.metrics.froc import CAMELYON_RATES, CaseHits, froc, match_points
from medvision.metrics.lesions import PIXEL_UM, label_lesions, score_detections
from medvision.metrics.ranking import roc_auc

NONE = np.empty(0)


def reference_mask(mask):
    """The official evaluation mask: the whole array, no crop."""
    distance = ndimage.distance_transform_edt(255 - mask.astype(np.uint8) * 255)
    filled = ndimage.binary_fill_holes(distance < 75 / (0.243 * 32 * 2))
    labels = label(filled, connectivity=2)
    isolated = [p.label for p in regionprops(labels) if p.axis_major_length < 275 / (0.243 * 32)]
    return labels, isolated


def reference_hits(labels, isolated, detections, tumour):
    """The official loop over detections; returns false positives, best hits (zeros included), number of lesions."""
    false = []
    best = np.zeros(labels.max() if tumour else 0, dtype=np.float32)
    for probability, row, column in detections:
        hit = labels[int(row) // 32, int(column) // 32] if tumour else 0
        if hit == 0:
            false.append(probability)
        elif hit not in isolated and probability > best[hit - 1]:
            best[hit - 1] = probability
    return false, best, len(best) - len(isolated)


def reference_curve(slides):
    """The official curve, with its loops: every threshold but the lowest, then nothing detected."""
    false = [p for f, _, _ in slides for p in f]
    best = [p for _, b, _ in slides for p in b]
    points = []
    # Sorted in double precision, as the NumPy of the official script's day did with mixed scalars.
    for threshold in sorted({float(p) for p in false + best})[1:]:
        points.append(((np.asarray(false) >= threshold).sum(), (np.asarray(best) >= threshold).sum()))
    points.append((0, 0))
    fps = np.array([p[0] for p in points]) / len(slides)
    sensitivity = np.array([p[1] for p in points]) / sum(n for _, _, n in slides)
    return fps, sensitivity, np.interp(CAMELYON_RATES, fps[::-1], sensitivity[::-1])


def random_slide(random, tumour):
    mask = np.zeros((160, 140), dtype=bool)
    for _ in range(random.integers(1, 9) if tumour else 0):
        row, column = random.integers(0, 160), random.integers(0, 140)
        height, width = random.integers(1, 45, 2)
        mask[row : row + height, column : column + width] = True
    count = random.integers(0, 25)
    rows, columns = random.integers(0, 160 * 32, count), random.integers(0, 140 * 32, count)
    return mask, [(float(random.integers(0, 11) / 10), r, c) for r, c in zip(rows, columns, strict=True)]


def ours(mask, detections, tumour):
    found = label_lesions(mask) if tumour else None
    points = np.array([d[1:] for d in detections], dtype=float).reshape(-1, 2)
    return score_detections("s", found, points, np.array([d[0] for d in detections], dtype=float))


@pytest.mark.parametrize("seed", range(40))
def test_official_protocol_equals_plain_reimplementation(seed):
    random = np.random.default_rng(seed)
    cases, slides = [], []
    for number in range(6):
        tumour = number % 2 == 0
        mask, detections = random_slide(random, tumour)
        labels, isolated = reference_mask(mask) if tumour else (np.zeros((1, 1), int), [])
        slides.append(reference_hits(labels, isolated, detections, tumour))
        cases.append(ours(mask, detections, tumour))
        assert len(cases[-1].lesions) == slides[-1][2]
        assert cases[-1].ignored == len(isolated)
    if sum(n for _, _, n in slides) == 0:
        with pytest.raises(UsageError, match="needs a lesion"):
            froc(cases)
        return
    fps, sensitivity, read = reference_curve(slides)
    got = froc(cases, "official", resamples=0)
    np.testing.assert_array_equal(got.false_positives, fps[::-1])
    np.testing.assert_array_equal(got.sensitivity, sensitivity[::-1])
    assert got.sensitivities == tuple(read)
    assert got.score == pytest.approx(read.mean(), abs=1e-15)


def test_label_lesions_in_a_crop_equals_the_whole_array():
    random = np.random.default_rng(7)
    for _ in range(20):
        mask, _ = random_slide(random, tumour=True)
        labels, isolated = reference_mask(mask)
        got = label_lesions(mask)
        np.testing.assert_array_equal(got.labels > 0, labels > 0)
        assert got.count == labels.max()
        assert len(got.isolated) == len(isolated)


def test_corrected_curve_equals_counting():
    random = np.random.default_rng(3)
    cases = [
        CaseHits("a", np.where(random.random(7) < 0.3, np.nan, random.random(7)), random.random(11)),
        CaseHits("b", NONE, random.random(5)),
    ]
    got = froc(cases, "corrected", resamples=0)
    lesions = np.concatenate([c.lesions for c in cases])
    false = np.concatenate([c.false_positives for c in cases])
    for threshold, fp, sensitivity in zip(got.thresholds, got.false_positives, got.sensitivity, strict=True):
        assert fp == np.sum(false >= threshold) / 2
        assert sensitivity == np.sum(lesions >= threshold) / 7
    assert len(got.thresholds) == 1 + np.sum(~np.isnan(lesions)) + len(false)


def test_quirk_the_lowest_threshold_is_dropped_when_every_lesion_is_hit():
    cases = [CaseHits("a", np.array([0.9, 0.3]), NONE), CaseHits("b", NONE, np.array([0.5]))]
    assert froc(cases, "official", resamples=0).sensitivity.max() == 0.5
    assert froc(cases, "corrected", resamples=0).sensitivity.max() == 1.0


def test_quirk_a_missed_or_ignored_lesion_saves_the_lowest_threshold():
    missed = [CaseHits("a", np.array([0.9, 0.3, np.nan]), NONE)]
    ignored = [CaseHits("a", np.array([0.9, 0.3]), NONE, ignored=1)]
    assert froc(missed, "official", resamples=0).sensitivity.max() == pytest.approx(2 / 3)
    assert froc(ignored, "official", resamples=0).sensitivity.max() == 1.0


def test_quirk_a_hit_at_probability_zero_is_none():
    cases = [CaseHits("a", np.array([0.9, 0.0]), np.array([0.1]))]
    assert froc(cases, "official", resamples=0).sensitivity.max() == 0.5
    assert froc(cases, "corrected", resamples=0).sensitivity.max() == 1.0


def test_quirk_single_precision_breaks_a_tie_of_hit_and_false_positive():
    # 0.1 in single precision lies above 0.1: the hit gets a threshold of its own, above the false positive.
    cases = [CaseHits("a", np.array([0.1, np.nan]), np.array([0.1]))]
    assert froc(cases, "official", resamples=0).false_positives.tolist() == [0, 0, 1]
    assert froc(cases, "corrected", resamples=0).false_positives.tolist() == [0, 1]


def test_areas_join_below_75_um_and_not_beyond():
    # The gap is counted between pixel centres: 37.5 um is 4.82 px, so each side grows by 4 px.
    for gap, lesions in ((8, 1), (9, 2)):
        mask = np.zeros((100, 200), dtype=bool)
        mask[20:80, 10:60] = True
        mask[20:80, 60 + gap : 150] = True
        assert label_lesions(mask).count == lesions


def test_isolated_cells_count_neither_way():
    mask = np.zeros((200, 200), dtype=bool)
    mask[50:60, 50:60] = True
    mask[100:160, 100:160] = True
    found = label_lesions(mask)
    assert found.count == 2
    assert len(found.isolated) == 1
    points = np.array([[55, 55], [130, 130], [131, 131], [5, 5], [1e9, 0], [-1.0, 130 * 32]]) * 32
    hits = score_detections("s", found, points, np.array([0.9, 0.4, 0.6, 0.2, 0.1, 0.15]))
    assert hits.lesions.tolist() == [0.6]
    assert hits.false_positives.tolist() == [0.2, 0.1, 0.15]
    assert hits.ignored == 1


def test_holes_are_filled():
    mask = np.zeros((120, 120), dtype=bool)
    mask[20:100, 20:100] = True
    mask[45:75, 45:75] = False
    hits = score_detections("s", label_lesions(mask), np.array([[60 * 32.0, 60 * 32.0]]), np.array([0.7]))
    assert hits.lesions.tolist() == [0.7]


def test_every_detection_on_a_normal_slide_is_false():
    hits = score_detections("n", None, np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.1, 0.2]))
    assert hits.false_positives.tolist() == [0.1, 0.2]
    assert len(hits.lesions) == 0


def test_lesions_of_an_offset_part_at_another_resolution():
    whole = np.zeros((300, 300), dtype=bool)
    whole[100:200, 120:180] = True
    part = label_lesions(whole[80:220, 100:200], PIXEL_UM, origin=(80, 100), downsample=(16.0, 16.0))
    points = np.array([[150 * 16 + 3.0, 150 * 16 + 3.0], [150 * 16.0, 10.0]])
    hits = score_detections("s", part, points, np.array([0.8, 0.9]))
    assert hits.lesions.tolist() == [0.8]
    assert hits.false_positives.tolist() == [0.9]


def test_curve_equals_monai():
    random = np.random.default_rng(11)
    for _ in range(10):
        false = random.integers(0, 20, 30) / 32
        hits = random.integers(0, 33, 8) / 32
        fps, sensitivity = compute_froc_curve_data(false, hits, 8, 5)
        expected = compute_froc_score(fps, sensitivity, CAMELYON_RATES)
        cases = [CaseHits("a", np.where(hits > 0, hits, np.nan), false)]
        cases += [CaseHits(str(i), NONE, NONE) for i in range(4)]
        got = froc(cases, "official", resamples=0)
        np.testing.assert_allclose(got.false_positives[::-1], fps, atol=0)
        np.testing.assert_allclose(got.sensitivity[::-1], sensitivity, atol=0)
        assert got.score == pytest.approx(expected, abs=1e-12)


@pytest.mark.filterwarnings("ignore:`RegionProperties.major_axis_length`:FutureWarning")
@pytest.mark.parametrize("seed", range(4))
def test_masks_and_detections_to_score_equal_monai_s_pathology(seed):
    """Lesions, isolated cells, hits and the score by MONAI's own parts of its LesionFROC, from masks on."""
    random = np.random.default_rng(seed)
    cases, false, hits, targets = [], [], [], 0
    for number in range(8):
        mask = np.zeros((160, 200), dtype=np.uint8)
        for _ in range(random.integers(0, 7) if number % 2 else 0):
            row, column = random.integers(5, 120, 2)
            height, width = random.integers(3, 45, 2)
            mask[row : row + height, column : column + width] = 1
        count = int(random.integers(0, 25))
        points = random.integers(0, [160 * 32, 200 * 32], (count, 2)).astype(float)
        probabilities = random.integers(1, 65, count) / 64
        lesions = label_lesions(mask.astype(bool)) if mask.any() else None
        cases.append(score_detections(str(number), lesions, points, probabilities))
        instances = compute_multi_instance_mask(mask, 75 / (PIXEL_UM * 2)) if mask.any() else mask.astype(int)
        isolated = compute_isolated_tumor_cells(instances, 275 / PIXEL_UM) if mask.any() else []
        y, x = points.astype(int).T
        fp, tp, n = compute_fp_tp_probs(probabilities, y, x, instances, isolated, resolution_level=5)
        false.extend(fp)
        hits.extend(tp)
        targets += n
    fps, sensitivity = compute_froc_curve_data(np.array(false), np.array(hits), targets, len(cases))
    got = froc(cases, "official", resamples=0)
    assert got.lesions == targets
    assert got.score == pytest.approx(compute_froc_score(fps, sensitivity, CAMELYON_RATES), abs=1e-12)


def test_intervals_are_seeded_and_hold_the_score():
    random = np.random.default_rng(5)
    cases = [CaseHits(str(i), random.random(i % 3), random.random(4)) for i in range(30)]
    first, second = froc(cases, "corrected", seed=4), froc(cases, "corrected", seed=4)
    assert first.interval == second.interval
    assert first.interval != froc(cases, "corrected", seed=5).interval
    low, high = first.interval
    assert low < first.score < high
    assert all(a <= s <= b for s, (a, b) in zip(first.sensitivities, first.intervals, strict=True))


def test_bootstrap_covers_the_mean_of_a_known_distribution():
    # One lesion a case, no false positive: the score is the share of hits, a binomial mean.
    cases = [CaseHits(str(i), np.array([0.9 if i % 4 else np.nan]), NONE) for i in range(200)]
    got = froc(cases, "corrected")
    half = 1.96 * np.sqrt(0.75 * 0.25 / 200)
    assert got.interval == pytest.approx((0.75 - half, 0.75 + half), abs=0.015)


def test_no_interval_when_many_resamples_hold_no_lesion():
    cases = [CaseHits("a", np.array([0.9]), NONE), *[CaseHits(str(i), NONE, NONE) for i in range(9)]]
    got = froc(cases, "corrected")  # 35% of the draws miss the one case with a lesion
    assert got.score == 1
    assert got.interval is None
    assert got.intervals is None
    cases[1] = CaseHits("b", np.array([np.nan]), NONE)
    assert froc(cases, "corrected").interval == (0, 1)
    assert froc(cases, "corrected", resamples=0).interval is None


def test_wrong_input_is_named():
    with pytest.raises(UsageError, match="official, corrected"):
        froc([CaseHits("a", np.array([0.5]), NONE)], "new")
    with pytest.raises(UsageError, match=r"case 'a'.*\[0, 1\]"):
        froc([CaseHits("a", np.array([1.5]), NONE)])
    with pytest.raises(UsageError, match="needs a lesion; 0 cases"):
        froc([])


def test_match_points_is_one_to_one_and_nearest_first():
    predictions = np.array([[0.0, 0.0], [0.0, 0.5], [9.0, 9.0]])
    reference = np.array([[0.0, 0.6], [5.0, 5.0]])
    got = match_points(predictions, reference, radius=1.0)
    assert got.pairs.tolist() == [[1, 0]]
    assert got.false_positives.tolist() == [0, 2]
    assert got.false_negatives.tolist() == [1]
    assert match_points(predictions, np.empty((0, 2)), 1.0).false_positives.tolist() == [0, 1, 2]


@pytest.mark.shared
def test_match_points_on_evalutils_data(shared: Path):
    folder = shared / "volumes" / "evalutils_points" / "points"

    def points(name):
        with (folder / name).open() as stream:
            return np.array([[float(v) for v in row[:2]] for row in list(csv.reader(stream))[1:]])

    got = match_points(points("predictions.csv"), points("reference.csv"), radius=1.0)
    assert (len(got.pairs), len(got.false_positives), len(got.false_negatives)) == (13, 1452, 551)


@pytest.mark.shared
def test_curve_and_auc_of_picai_eval_data(shared: Path):
    """Ten cases with the candidates, curve and AUC that picai_eval 1.4 expects; its confidences reach 2."""
    path = shared / "volumes" / "picai_eval" / "tests" / "output-expected" / "metrics-full-expected.json"
    expected = json.loads(path.read_text())
    cases = []
    for name, candidates in expected["lesion_results"].items():
        lesions = [p / 2 if p > 0 else np.nan for is_lesion, p, _ in candidates if is_lesion]
        false = [p / 2 for is_lesion, p, _ in candidates if not is_lesion]
        cases.append(CaseHits(name, np.array(lesions), np.array(false)))
    got = froc(cases, "corrected", resamples=0)
    assert (got.cases, got.lesions) == (expected["num_cases"], expected["num_lesions"])
    assert (2 * got.thresholds[1:]).tolist() == expected["thresholds"][:2]
    np.testing.assert_allclose(got.false_positives[1:], expected["lesion_FPR"][:2], atol=1e-7)
    np.testing.assert_allclose(got.sensitivity[1:], expected["lesion_TPR"][:2], atol=1e-7)
    targets, scores = expected["case_target"], expected["case_pred"]
    assert roc_auc(list(targets.values()), [scores[name] for name in targets]) == expected["auroc"]
