"""Multi-crop: sizes, scales and augmentations in the shares that the paper states."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dino_train.config import CropsConfig, Recipe  # noqa: E402
from dino_train.data.loader import CropDataset, EpochSampler, crop_loader  # noqa: E402
from dino_train.data.multicrop import MultiCrop, normalise  # noqa: E402

CONFIG = CropsConfig(global_size=64, local_size=32, local_crops=5, global_scale=(0.4, 1.0), local_scale=(0.05, 0.4))


def test_numbers_sizes_and_types() -> None:
    crops = MultiCrop(CONFIG)(torch.zeros(3, 100, 130, dtype=torch.uint8))
    assert [tuple(crop.shape) for crop in crops] == [(3, 64, 64)] * 2 + [(3, 32, 32)] * 5
    assert {crop.dtype for crop in crops} == {torch.uint8}


def test_crops_cover_the_stated_share_of_the_picture() -> None:
    """In a picture whose red and green are the coordinates, a crop's extent can be read off its colours."""
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(0, 255, 256), torch.linspace(0, 255, 256), indexing="ij")
    picture = torch.stack([y, x, torch.zeros_like(x)]).to(torch.uint8)
    cropper = MultiCrop(CONFIG)
    for stage, (low, high) in ((cropper.second_global, (0.4, 1.0)), (cropper.local, (0.05, 0.4))):
        geometry = stage.transforms[0]
        shares = []
        for _ in range(300):
            crop = geometry(picture).float()
            extents = [float(crop[c].max() - crop[c].min()) / 255 for c in (0, 1)]
            shares.append(extents[0] * extents[1])
        assert low * 0.85 < min(shares) < low + 0.1
        assert high * 0.85 < max(shares) <= high * 1.05
        assert np.mean(shares) == pytest.approx((low + high) / 2, abs=0.1)  # crops that do not fit are drawn again


def test_augmentations_happen_as_often_as_stated() -> None:
    torch.manual_seed(0)
    cropper = MultiCrop(CONFIG)
    picture = torch.zeros(3, 96, 96, dtype=torch.uint8)
    picture[0, :, 48:] = 220  # red on the right, blue on the left
    picture[2, :, :48] = 180
    count = 600

    def share(stage, tells) -> float:  # type: ignore[no-untyped-def]
        return sum(bool(tells(stage(picture).float())) for _ in range(count)) / count

    def grey(crop: torch.Tensor) -> bool:
        return torch.equal(crop[0], crop[1]) and torch.equal(crop[1], crop[2])

    assert share(cropper.local, grey) == pytest.approx(0.2, abs=0.05)
    steps = [type(step).__name__ for step in cropper.first_global.transforms]
    assert steps == ["RandomResizedCrop", "RandomHorizontalFlip", "RandomApply", "RandomGrayscale", "RandomApply"]
    blur = [stage.transforms[-1 if stage is not cropper.second_global else -2].p
            for stage in (cropper.first_global, cropper.second_global, cropper.local)]  # fmt: skip
    assert blur == [1.0, 0.1, 0.5]
    solarise = cropper.second_global.transforms[-1]
    solarised = sum(not torch.equal(solarise(picture), picture) for _ in range(count)) / count
    assert solarised == pytest.approx(0.2, abs=0.05)


def test_normalise() -> None:
    crops = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (crops.double() / 255 - torch.tensor(mean).double().view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(normalise(crops, mean, std).double(), expected, atol=1e-5, rtol=1e-5)


class Numbers:
    """Pictures whose every pixel is their number."""

    name = "numbers"

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> np.ndarray:
        return np.full((40, 40, 3), index, np.uint8)


RECIPE = Recipe(crops=CONFIG, epochs=3, batch_size=6, seed=5)


def test_each_epoch_draws_every_picture_at_most_once_in_a_new_order() -> None:
    batches = list(EpochSampler(20, RECIPE, first_step=0))
    assert len(batches) == 9
    epochs = [[number for batch in batches[i : i + 3] for number, _ in batch] for i in (0, 3, 6)]
    assert all(len(set(epoch)) == 18 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first_step", [1, 3, 7])
def test_a_loader_that_starts_later_gives_the_same_batches(first_step: int, workers: int) -> None:
    whole = list(crop_loader(Numbers(), RECIPE, 0, workers=0, pin=False))
    rest = list(crop_loader(Numbers(), RECIPE, first_step, workers=workers, pin=False))
    assert len(rest) == 9 - first_step
    for ours, theirs in zip(rest, whole[first_step:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_picture_that_does_not_decode_is_replaced_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    from dino_ros.errors import UserError

    class Broken(Numbers):
        def __getitem__(self, index: int) -> np.ndarray:
            if index == 7:
                raise UserError("picture 7 does not decode")
            return super().__getitem__(index)

    dataset = CropDataset(Broken(), RECIPE)
    assert all(torch.equal(a, b) for a, b in zip(dataset[7, 0], dataset[8, 0], strict=True))
    assert "picture 7 does not decode" in caplog.text
