import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.files.image_files import UnreadableImage
from datamodules.normals.folder_sets import DIODE, IBims, NormalFolder, NYUv2, ScanNet

RANDOM = np.random.default_rng(0)


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pixels) if path.suffix == ".npy" else Image.fromarray(pixels).save(path)


def scenes(root: Path, names: list[str], image_end: str = "_img.png", normal_end: str = "_normal.png") -> None:
    for name in names:
        write(root / (name + image_end), RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        normal = RANDOM.integers(0, 256, (4, 6, 3), dtype=np.uint8)
        write(root / (name + normal_end), normal if normal_end.endswith("png") else normal.astype(np.float64) / 200)


def test_images_are_read_with_the_normals_beside_them(tmp_path: Path) -> None:
    scenes(tmp_path, ["b/2", "b/10", "a"], "_rgb.png")
    source = NormalFolder(str(tmp_path), "_rgb.png", axes=(-1, 1, -1)).source("test")
    assert source.names == ["a", "b/10", "b/2"]
    assert source.sizes == [(4, 6)] * 3
    image, normal = source.read(1)
    assert (image == np.asarray(Image.open(tmp_path / "b/10_rgb.png")).transpose(2, 0, 1)).all()
    stored = np.asarray(Image.open(tmp_path / "b/10_normal.png")).transpose(2, 0, 1)
    assert (normal == np.stack([255 - stored[0], stored[1], 255 - stored[2]])).all()


@pytest.mark.parametrize(
    ("kind", "folder", "ends", "split", "count", "sign"),
    [
        (NYUv2, "dsine_eval/nyuv2/test", ("_img.png", "_normal.png"), "test", 654, -1),
        (NYUv2, "dsine_eval/nyuv2/train", ("_img.png", "_normal.png"), "training", 795, -1),
        (ScanNet, "dsine_eval/scannet/scene0532_00", ("_img.png", "_normal.png"), "test", 300, -1),
        (IBims, "dsine_eval/ibims/ibims", ("_img.png", "_normal.npy"), "test", 100, -1),
        (DIODE, "val/indoors/scene_00019/scan_00183", (".png", "_normal.npy"), "test", None, 1),
    ],
)
def test_the_sets_of_the_field_lie_where_people_have_them(
    kind: type[NormalFolder], folder: str, ends: tuple[str, str], split, count: int | None, sign: int,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    scenes(tmp_path / folder, ["x", "y"], *ends)
    if count is not None:
        with pytest.raises(ValueError, match=f"has 2 images, but {kind.__name__} has {count}"):
            kind(str(tmp_path)).source(split)
        monkeypatch.setattr(kind, "counts", (2, 2))
    source = kind(str(tmp_path)).source(split)
    stored = source.normals[1]
    values = np.load(stored) if stored.suffix == ".npy" else np.asarray(Image.open(stored)) / 255 * 2 - 1
    found = source.read(1)[1].transpose(1, 2, 0)
    found = found / 255 * 2 - 1 if found.dtype == np.uint8 else found
    np.testing.assert_allclose(found, values * [sign, 1, 1], atol=1e-6)


def test_what_is_missing_or_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"NYUv2: no file \*_img.png in .*nyuv2/test or its .*DSINE"):
        NYUv2(str(tmp_path)).source("test")
    scenes(tmp_path, ["a", "b"])
    (tmp_path / "b_normal.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images have no normals: .*b_normal.png"):
        NormalFolder(str(tmp_path)).source("test")
    write(tmp_path / "b_normal.png", np.zeros((4, 5, 3), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"b_img.png has 4 x 6 pixels, but .*b_normal.png has 4 x 5"):
        NormalFolder(str(tmp_path)).source("test").read(1)
    write(tmp_path / "a_normal.npy", np.zeros((4, 6)))
    (tmp_path / "b_normal.npy").write_bytes(b"no array")
    source = NormalFolder(str(tmp_path), normal_end="_normal.npy").source("test")
    for position, message in ((0, r"has float64 \[4, 6\]; expected numbers"), (1, "cannot be read as an array")):
        with pytest.raises(UnreadableImage, match=message):
            source.read(position)


@pytest.mark.data
def test_real_scenes_have_their_axes_to_the_right_up_and_to_the_viewer() -> None:
    """Only with these signs do the stored normals of four Kinect scenes agree with normals computed from depth."""
    folder = Path(os.environ["NOISEWORKS_DATA"], "kinect_rgbd")
    cameras = json.loads((folder / "intrinsics.json").read_text())
    source = NormalFolder(str(folder), image_end="_rgb.png").source("test")
    assert source.names == ["bottles", "laptop", "office", "people"]
    for position, name in enumerate(source.names):
        depth, camera, step = np.asarray(Image.open(folder / f"{name}_depth.png")) / 1000, cameras[name], 8
        row, column = np.mgrid[: depth.shape[0], : depth.shape[1]]
        right, up = (column - camera["cx"]) / camera["fx"], (camera["cy"] - row) / camera["fy"]
        point = np.stack([right, up, -np.ones_like(depth)]) * depth
        across = point[:, step:-step, 2 * step :] - point[:, step:-step, : -2 * step]
        upwards = point[:, : -2 * step, step:-step] - point[:, 2 * step :, step:-step]
        normal = np.cross(across, upwards, axis=0)
        normal /= np.linalg.norm(normal, axis=0) + 1e-12
        stored = source.read(position)[1][:, step:-step, step:-step] / 255 * 2 - 1
        length, near = np.linalg.norm(stored, axis=0), depth[step:-step, step:-step]
        flat = (length < 1.5) & (near > 0) & (near < 3) & (np.abs(across[2]) < 0.1) & (np.abs(upwards[2]) < 0.1)
        flat &= np.abs(stored[0]) > 0.2  # surfaces without a sideways slope have no side
        errors = {}
        for signs in itertools.product((1, -1), repeat=3):
            cosine = (stored * normal * np.reshape(signs, (3, 1, 1))).sum(axis=0)[flat]
            errors[signs] = float(np.median(np.degrees(np.arccos(cosine.clip(-1, 1)))))
        found = errors.pop((1, 1, 1))
        assert found < 20, name
        assert found + 5 < min(errors.values()), (name, found, errors)
