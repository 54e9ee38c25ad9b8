"""The networks that come with the package, and how ResNet-50 is found."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights, resnet50

from bigmodel_helpers import data
from bigmodel_helpers.data import _download
from bigmodel_helpers.models import pretrained
from bigmodel_helpers.models.pretrained import SHIPPED, card, load

WEIGHTS = Path(pretrained.__file__).parents[1] / "weights"
NAME = "resnet50-11ad3fa6.pth"
SIX = load("cifar6_resnet")
prepare = SIX.prepare


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty hub cache, no data folder, and a host that does not answer."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("BIGMODEL_DATA", raising=False)

    def unreachable(*_: object) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(_download, "_fetch", unreachable)
    return tmp_path


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_networks_fit_their_cards(name: str) -> None:
    facts = card(name)
    file = WEIGHTS / f"{name}.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == facts["sha256"]
    network = load(name)
    assert not network.model.training
    assert network.classes == tuple(facts["classes"])
    assert sum(p.numel() for p in network.model.parameters()) == facts["parameters"]
    low, high = facts["test_interval"]
    assert low < facts["test_accuracy"] < high
    for key in ("data", "recipe", "seed", "device", "train_seconds", "limits", "input", "date"):
        assert str(facts[key]), key


def test_weights_are_small() -> None:
    assert sum(file.stat().st_size for file in WEIGHTS.iterdir()) < 6_000_000


def test_the_best_network_reaches_91_percent() -> None:
    facts = card("cifar10_resnet")
    assert facts["classes"] == list(data.CLASSES)
    assert facts["test_images"] == 10_000
    assert facts["test_accuracy"] >= 0.91


def test_shipped_networks_know_real_pictures() -> None:
    """scikit-image's cat is a photo that no network here was trained on."""
    network = load("cifar10_resnet")
    with torch.inference_mode():
        logits = network.model(network.prepare(Image.fromarray(skimage.data.cat()))[None])
    assert network.classes[int(logits.argmax())] == "cat"


def test_small_networks_keep_cifar_images_as_they_are() -> None:
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    picture = Image.fromarray(pixels[0].permute(1, 2, 0).numpy())
    assert torch.equal(prepare(picture), data.normalize(pixels)[0])


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (31, 33), (640, 480)])
def test_small_networks_take_any_size(size: tuple[int, int]) -> None:
    image = prepare(Image.new("RGB", size, (120, 60, 30)))
    assert image.shape == (3, 32, 32)
    expected = data.normalize(torch.tensor([120, 60, 30], dtype=torch.uint8).view(1, 3, 1, 1))[0]
    assert torch.allclose(image, expected.expand(3, 32, 32), atol=1e-4)


def test_small_networks_take_the_middle_and_keeps_the_proportions() -> None:
    picture = Image.new("RGB", (300, 100), "black")
    picture.paste("white", (100, 0, 200, 100))  # the middle square
    assert prepare(picture)[:, :, 1:-1].min() > 1.5


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="choose from auto, cifar10_resnet"):
        load("resnet34")
    with pytest.raises(ValueError, match="no card for 'resnet50'"):
        card("resnet50")


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in WEIGHTS.glob("cifar6*"):
        (tmp_path / file.name).write_bytes(
            file.read_bytes() + (b" " if file.suffix == ".safetensors" else b"")
        )
    monkeypatch.setattr(pretrained, "_file", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match="not the file of its card"):
        load("cifar6_resnet")


def test_without_network_auto_takes_the_shipped_one_and_says_so(no_network: Path) -> None:
    network = load("auto")
    assert network.classes == data.CLASSES
    assert re.search(
        r"trained for this book.*because resnet50-.*could not be downloaded.*no route", network.source
    )
    with pytest.raises(FileNotFoundError, match="not to be downloaded"):
        load("resnet50", download=False)


@pytest.mark.parametrize("place", ["data", "hub"])
def test_resnet50_is_found_checked_and_used(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """The real loading code, on weights of the same format drawn at random."""
    torch.manual_seed(0)
    state = resnet50().state_dict()
    folder = no_network / ("data/checkpoints" if place == "data" else "hub/hub/checkpoints")
    folder.mkdir(parents=True)
    if place == "data":
        monkeypatch.setenv("BIGMODEL_DATA", str(no_network / "data"))
    made = folder / NAME
    torch.save(state, made)
    with pytest.raises(ValueError, match=r"has SHA-256 \w{8}\.\.\., not 11ad3fa6\.\.\.: delete it"):
        load("resnet50")
    digest = hashlib.sha256(made.read_bytes()).hexdigest()[:8]

    class Weights:
        url = f"https://example.org/resnet50-{digest}.pth"
        transforms = ResNet50_Weights.IMAGENET1K_V2.transforms
        meta = ResNet50_Weights.IMAGENET1K_V2.meta

    monkeypatch.setattr(pretrained, "_resnet50_weights", lambda: Weights)
    made.rename(folder / f"resnet50-{digest}.pth")
    network = load("auto")
    same_numbers(network)
    assert (network.size, len(network.prepare.mean)) == (232, 3)
    assert len(network.classes) == 1000
    image = network.prepare(Image.new("RGB", (1, 5000), "red"))
    assert image.shape == (3, 224, 224)
    assert torch.equal(network.model.fc.weight, state["fc.weight"])


def noise(count: int, height: int, width: int | None = None) -> data.ImageSet:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, height, width or height), dtype=torch.uint8, generator=draw)
    return data.ImageSet(pixels, torch.arange(count) % 4, ("a", "b", "c", "d"), "noise for a test")


def same_numbers(network: pretrained.Pretrained) -> None:
    """Hold `batches` against `prepare` on pictures of the right size."""
    images = noise(5, network.size)
    found = torch.cat([x for x, _ in network.batches(images, 2)])
    expected = torch.stack([network.prepare(data.to_picture(one)) for one in images.images])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHIPPED)
def test_batches_show_what_prepare_shows(name: str) -> None:
    network = load(name)
    same_numbers(network)
    facts = card(name)
    assert [network.size, network.prepare.mean, network.prepare.std] == [
        facts[key] for key in ("size", "mean", "std")
    ]


def test_batches_show_what_the_transforms_of_torchvision_show() -> None:
    transforms = ResNet50_Weights.IMAGENET1K_V1.transforms(resize_size=41, crop_size=32)  # an odd border
    same_numbers(replace(SIX, prepare=transforms))


def test_batches_take_the_options_of_data_batches() -> None:
    images = noise(20, 32)
    options = {
        "shuffle": True,
        "augment": data.Augment(),
        "seed": 3,
        "channels_last": True,
        "drop_last": True,
    }
    made = SIX.batches(images, batch_size=8, dtype=torch.bfloat16, device="cpu", **options)
    expected = data.Batches(images, 8, dtype=torch.bfloat16, **options)
    for (x, y), (other, labels) in zip(made, expected, strict=True):
        assert torch.equal(x, other)
        assert torch.equal(y, labels)
        assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [(31, 32), (64, 64), (32, 64), (224, 224)])
def test_batches_refuse_pictures_of_another_size(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[1]} x {size[0]} pixels.* takes 32 x 32: .*size=32"):
        SIX.batches(noise(2, *size))


def test_batches_are_those_of_an_image_set() -> None:
    images = noise(2, 32)
    folder = data.ImageFolder(images, (Path("a"), Path("b")), torch.arange(2))
    for other in (folder, images.images, None, [1, 2]):
        with pytest.raises(TypeError, match=f"a {type(other).__name__} is no ImageSet"):
            SIX.batches(other)
    assert isinstance(SIX.batches(folder.images), data.Batches)


def test_batches_need_to_know_what_prepare_does() -> None:
    blind = replace(SIX, prepare=lambda picture: SIX.prepare(picture))
    with pytest.raises(ValueError, match="prepare has no resize_size, crop_size, mean and std"):
        blind.batches(noise(2, 32))
    with pytest.raises(ValueError, match="prepare has no resize_size"):
        _ = blind.size
    numbers = replace(SIX, prepare=replace(SIX.prepare, resize_size=32))
    with pytest.raises(ValueError, match="prepare has no resize_size"):
        _ = numbers.size
    with pytest.raises(ValueError, match="cuts 40 pixels out of 32"):
        replace(SIX, prepare=replace(SIX.prepare, crop_size=[40])).batches(noise(2, 32))


def test_cards_are_json_without_paths() -> None:
    for name in SHIPPED:
        assert "/" not in json.dumps(card(name)["data"])


def test_pretrained_holds_what_belongs_together() -> None:
    assert set(pretrained.Pretrained.__dataclass_fields__) == {"model", "prepare", "classes", "source"}
