"""Boxes of rendered objects with depth as a camera measures it: the table of docs/depth.md, on a few frames."""

import runpy

import numpy as np
import pytest
from imports import ROOT

pybullet = pytest.importorskip("pybullet")
pytest.importorskip("rich")


def test_centers_are_within_a_centimeter_and_sides_within_ten_percent() -> None:
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "objects_in_3d.py"))
    scene = benchmark["Scene"](20.0, 3, 640, 480)
    camera = benchmark["Pinhole"](640, 480, scene.focal, scene.focal, 320, 239)
    ours, theirs = (benchmark["Errors"](benchmark[name]) for name in ("ours", "baseline"))
    for at in (3.6, 9.6, 14.4):
        rgb, mask, _, exact = scene.render(at)
        depth = benchmark["as_measured"](exact, rgb, scene.focal, scene.depth_noise)
        truth = benchmark["true_boxes"](scene, at, mask, camera)
        for errors in (ours, theirs):
            errors.add(depth, mask.astype(np.uint16), camera, truth, {number: number for number in truth})
    scene.close()
    assert len(ours.centers) >= 5
    assert not ours.missed
    assert np.median(ours.centers) < 0.01 < np.median(theirs.centers)
    assert (np.median(np.abs(ours.sizes), axis=0) < 0.1).all()
