"""Synthetic chest CT: truth lies where the voxels say, and the same recipe gives the same bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from scipy import ndimage

from medvision.core.errors import UsageError
from medvision.synthetic.chest import (
    ChestRecipe,
    ChestScan,
    NoduleSpec,
    draw_scan,
    sample_recipe,
    without_nodules,
)
from medvision.synthetic.chest import render as rendering
from medvision.synthetic.chest import scene as scenes
from medvision.synthetic.chest.blobs import lump
from medvision.synthetic.chest.recipe import KERNELS, Kind, Margin, Orientation, Place
from medvision.synthetic.chest.trees import grow
from medvision.synthetic.chest.tubes import draw_tubes

SMALL = ChestRecipe(
    seed=7,
    shape=(76, 100, 100),
    spacing_mm=(1.5, 1.5, 1.5),
    width_mm=140.0,
    nodules=(
        NoduleSpec(12.0, "solid", "smooth", "parenchyma"),
        NoduleSpec(10.0, "ground-glass", "smooth", "parenchyma"),
        NoduleSpec(8.0, "calcified", "lobulated", "juxtapleural"),
        NoduleSpec(9.0, "solid", "spiculated", "juxtavascular"),
    ),
    kernel="soft",
)


@lru_cache(maxsize=1)
def small() -> ChestScan:
    return draw_scan(SMALL)


def of(scan: ChestScan, number: int) -> np.ndarray:
    return scan.hu[scan.nodule_labels == number].astype(np.float64)


def test_nodules_are_where_the_truth_says() -> None:
    scan = small()
    assert scan.hu.dtype == np.int16
    assert scan.hu.shape == scan.lungs.shape == scan.nodule_labels.shape == SMALL.shape
    voxel = float(np.prod(SMALL.spacing_mm))
    assert len(scan.nodules) == 4
    for finding, spec in zip(scan.nodules, SMALL.nodules, strict=True):
        mask = scan.nodule_labels == finding.label
        # The mask's volume is a sphere's of the diameter in the table, within what voxels of 1.5 mm can say.
        sphere = np.pi / 6 * finding.diameter_mm**3
        assert mask.sum() * voxel == pytest.approx(sphere, rel=0.08)
        assert finding.volume_mm3 == pytest.approx(sphere, rel=1e-3)
        assert finding.diameter_mm == pytest.approx(spec.diameter_mm, rel=0.05)
        # Its middle is the place in the table, by way of the world and back.
        middle = np.argwhere(mask).mean(axis=0) + 0.5
        assert np.linalg.norm(scan.frame.to_world(middle) - finding.centre_mm) < 0.4
        index = scan.frame.to_voxels(finding.centre_mm).astype(int)
        assert mask[tuple(index)]


def test_nodules_have_the_density_of_their_kind() -> None:
    scan = small()
    lung = float(np.median(scan.hu[scan.lungs > 0]))
    assert -930 < lung < -750
    inner = {
        f.kind: float(np.median(scan.hu[ndimage.binary_erosion(scan.nodule_labels == f.label)]))
        for f in scan.nodules[:3]
    }
    assert -120 < inner["solid"] < 80
    assert lung + 90 < inner["ground-glass"] < -380
    assert inner["calcified"] > 100
    # Without the nodules the same places are lung, and the rest of the scan is unchanged by them.
    bare = draw_scan(without_nodules(SMALL))
    assert not bare.nodule_labels.any()
    solid = scan.nodule_labels == 1
    assert float(np.median(bare.hu[solid])) < -600


def test_a_nodule_on_the_pleura_touches_the_wall_and_one_on_a_vessel_a_vessel() -> None:
    scan = small()
    made = scenes.build(SMALL)
    near_wall = ndimage.binary_dilation(scan.nodule_labels == 3, iterations=2)
    assert (scan.lungs[near_wall] == 0).any()
    free = ndimage.binary_dilation(scan.nodule_labels == 1, iterations=1)
    assert (scan.lungs[free] > 0).mean() > 0.97
    vessel = made.nodules[3]
    ends = made.pipes.blood
    middle = (ends[:, :3] + ends[:, 3:6]) / 2
    gap = np.linalg.norm(middle - vessel.centre, axis=1) - ends[:, 6]
    assert gap.min() < vessel.blobs[0].reach_mm


def test_organs_have_their_densities_and_places() -> None:
    scan = small()
    hu, lungs = scan.hu, scan.lungs
    assert set(np.unique(lungs)) == {0, 3, 4, 5}
    left, right = (np.argwhere(lungs == k) for k in (3, 4))
    # x grows to the patient's left.
    assert scan.frame.to_world(left.mean(axis=0))[0] > scan.frame.to_world(right.mean(axis=0))[0] + 30
    assert len(right) > 0.8 * len(left)
    assert float(np.median(hu[lungs == 5])) < -930
    assert float(np.median(hu[0:4, 0:4])) == pytest.approx(-1000, abs=30)
    volume = (lungs > 0).mean()
    assert 0.10 < volume < 0.40
    body = hu > -300
    middle = body[SMALL.shape[0] // 2]
    assert (hu[SMALL.shape[0] // 2][middle] > 300).mean() > 0.02  # ribs and spine
    muscle = ((hu > 20) & (hu < 90)).mean()
    fat = ((hu > -140) & (hu < -60)).mean()
    assert muscle > 0.1
    assert fat > 0.04
    # Dependent lung, at the back, is denser.
    y = np.argwhere(lungs > 2)[:, 1]
    front, back = np.quantile(y, (0.2, 0.8)).astype(int)
    rows = np.arange(SMALL.shape[1])[None, :, None]
    inside = ndimage.binary_erosion(lungs > 2, iterations=2)
    assert np.median(hu[inside & (rows > back)]) > np.median(hu[inside & (rows < front)]) + 8


def test_the_same_recipe_gives_the_same_voxels_whatever_the_slab() -> None:
    again = draw_scan(replace(SMALL))
    assert np.array_equal(again.hu, small().hu)
    assert again.nodules == small().nodules
    made = scenes.build(SMALL)
    assert np.array_equal(rendering.render_slices(made, 30, 33), small().hu[30:33])
    assert not np.array_equal(draw_scan(replace(SMALL, seed=8)).hu, small().hu)


@pytest.mark.parametrize("orientation", ["RAS", "LPI"])
def test_a_flip_changes_the_array_and_nothing_in_the_world(orientation: Orientation) -> None:
    turned = draw_scan(replace(SMALL, orientation=orientation))
    assert turned.frame.letters == orientation[::-1]
    assert turned.nodules == small().nodules
    axes = {"RAS": (1, 2), "LPI": (0,)}[orientation]
    assert np.array_equal(np.flip(turned.hu, axes), small().hu)
    for finding in turned.nodules:
        index = turned.frame.to_voxels(finding.centre_mm).astype(int)
        assert turned.nodule_labels[tuple(index)] == finding.label


@pytest.mark.parametrize("spacing", [(0.6, 0.5), (2.5, 0.9)])
def test_spacing_changes_the_grid_and_not_the_nodule(spacing: tuple[float, float]) -> None:
    # A slab of a scan: few slices are enough, and a fine one would take long.
    recipe = sample_recipe(3, "standard", nodules=(0, 0), spacing_mm=spacing, orientation="LPS")
    assert recipe.spacing_mm == (spacing[0], spacing[1], spacing[1])
    made = scenes.build(recipe)
    slices = rendering.render_slices(made, recipe.shape[0] // 2, recipe.shape[0] // 2 + 2)
    assert slices.shape[1:] == recipe.shape[1:]
    assert recipe.shape[1] * spacing[1] == pytest.approx(recipe.width_mm / 0.93, abs=spacing[1])
    assert (slices < -700).mean() > 0.3
    assert made.frame.step[0] <= 1.0


def test_noise_follows_kernel_and_dose() -> None:
    def spread(**changes: object) -> float:
        recipe = replace(SMALL, nodules=(), **changes)  # type: ignore[arg-type]
        quiet = replace(recipe, dose=10.0)
        noisy, calm = (
            rendering.render_slices(scenes.build(one), 40, 42).astype(np.float64) for one in (recipe, quiet)
        )
        return float((noisy - calm)[:, 30:70, 30:70].std())

    # The seed's noise is the same at every dose: what is left of it at dose 10 is a known share.
    left = 10**-0.5
    soft, sharp = spread(kernel="soft"), spread(kernel="sharp")
    assert sharp == pytest.approx(soft * KERNELS["sharp"].noise_hu / KERNELS["soft"].noise_hu, rel=0.15)
    assert spread(kernel="soft", dose=0.25) == pytest.approx(soft * (2 - left) / (1 - left), rel=0.1)
    assert KERNELS["sharp"].blur_mm < KERNELS["soft"].blur_mm


def test_padding_lies_outside_the_circle() -> None:
    made = scenes.build(replace(SMALL, nodules=(), padded=True))
    plane = rendering.render_slices(made, 20, 21)[0]
    assert plane[0, 0] == plane[-1, -1] == -3024
    assert plane[50, 50] > -1025
    assert 0.15 < (plane == -3024).mean() < 0.25


@pytest.mark.parametrize("margin", ["smooth", "lobulated", "spiculated"])
def test_every_shape_has_the_volume_asked_for(margin: Margin) -> None:
    rng = np.random.default_rng(0)
    lobes, height = {"smooth": (3, 0.06), "lobulated": (7, 0.34), "spiculated": (16, 0.3)}[margin]
    blob = lump(np.full(3, 10.0), 8.0, 0.0, rng, stretch=(1.0, 0.8, 1.3), lobes=lobes, height=height)
    axis = np.arange(0, 20, 0.2) + 0.1
    inside = blob.distance(*np.meshgrid(axis, axis, axis, indexing="ij")) <= 0
    assert inside.sum() * 0.2**3 == pytest.approx(np.pi / 6 * 8.0**3, rel=0.02)
    assert np.argwhere(inside).min() > 0


def test_a_thin_tube_keeps_its_cross_section() -> None:
    for radius in (0.2, 0.45, 1.5):
        cover = np.zeros((20, 40, 40), np.float32)
        tube = np.array([[-5.0, 20.3, 19.6, 25.0, 20.3, 19.6, radius, radius]])
        draw_tubes(cover, tube, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        assert float(cover[10].sum()) == pytest.approx(np.pi * radius**2, rel=0.06)


def test_trees_reach_every_point_and_taper() -> None:
    rng = np.random.default_rng(1)
    cloud = rng.uniform(0, 50, (200, 3))
    tree = grow([cloud[:120], cloud[120:]], np.zeros(3), np.array([1.0, 0.0, 0.0]), rng)
    ends = tree.end[tree.supplies == 1]
    assert sorted(map(tuple, ends)) == sorted(map(tuple, cloud))
    assert len(tree.start) == 2 * 200 - 2
    radii = tree.radii(0.5)
    assert radii.min() == 0.5
    assert radii.max() > 2.5
    starts = {tuple(p) for p in tree.start}
    inner = tree.end[tree.supplies > 1]
    assert all(tuple(p) in starts for p in inner)


def test_sampled_recipes_differ_and_repeat() -> None:
    recipes = [sample_recipe(seed, "standard") for seed in range(60)]
    assert recipes == [sample_recipe(seed, "standard") for seed in range(60)]
    assert len({r.series_uid for r in recipes}) == 60
    assert all(r.series_uid.startswith("2.25.") and len(r.series_uid) <= 64 for r in recipes)
    assert {r.kernel for r in recipes} == set(KERNELS)
    assert len({r.orientation for r in recipes}) >= 3
    specs = [n for r in recipes for n in r.nodules]
    assert {n.kind for n in specs} == {"solid", "part-solid", "ground-glass", "calcified"}
    assert {n.place for n in specs} == {"parenchyma", "juxtapleural", "juxtavascular"}
    assert 5 < float(np.median([n.diameter_mm for n in specs])) < 8.5
    assert all(0.5 <= r.spacing_mm[1] <= 0.9 and 0.6 <= r.spacing_mm[0] <= 2.5 for r in recipes)


def test_a_nodule_is_drawn_where_it_is_put() -> None:
    first = small().nodules[0]
    recipe = replace(SMALL, nodules=(NoduleSpec(9.0, centre_mm=first.centre_mm),), distractors=0.0)
    scan = draw_scan(recipe)
    assert np.linalg.norm(np.subtract(scan.nodules[0].centre_mm, first.centre_mm)) < 1.0
    assert scan.others == ()
    with pytest.raises(UsageError, match="outside the lungs"):
        draw_scan(replace(recipe, nodules=(NoduleSpec(9.0, centre_mm=(0.0, 0.0, 5000.0)),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": "bone"}, "kernel 'bone' unknown; known: soft, standard, sharp"),
        ({"orientation": "SPL"}, "orientation 'SPL' unknown; known: LPS"),
        ({"shape": (4, 100, 100)}, "too small to draw"),
        ({"shape": (9000, 900, 900)}, "too large to draw"),
        ({"spacing_mm": (1.0, float("nan"), 1.0)}, "spacing .* outside what is drawn"),
        ({"width_mm": 20.0}, "a body 20.0 mm wide"),
        ({"dose": 0.0}, "dose 0.0"),
        ({"tilt_deg": (0.0, 40.0, 0.0)}, "tilt"),
        (
            {"nodules": tuple(NoduleSpec(29.0) for _ in range(12))},
            "no room in the lungs for a nodule of 29.0 mm",
        ),
    ],
)
def test_what_cannot_be_drawn_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        scenes.build(replace(SMALL, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((2.0, "solid"), "3 to 30 mm"), ((5.0, "gas"), "kind 'gas' unknown; known: solid, part-solid")],
)
def test_a_nodule_that_is_none_is_refused(arguments: tuple[float, Kind], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        NoduleSpec(*arguments)


def test_places_are_named() -> None:
    wrong: Place = "wall"  # type: ignore[assignment]
    with pytest.raises(UsageError, match="place 'wall' unknown; known: parenchyma"):
        NoduleSpec(5.0, place=wrong)


def test_findings_keep_apart() -> None:
    made = scenes.build(SMALL)
    ordered = sorted(made.everything, key=lambda f: tuple(f.centre))
    for a, b in pairwise(ordered):
        assert np.linalg.norm(a.centre - b.centre) > 4.0
