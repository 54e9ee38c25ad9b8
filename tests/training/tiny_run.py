"""Small images, a small network and a short run, for the tests of `training.fit`."""

import torch
from torch import nn

from bigmodel_helpers.data import Batches, ImageSet
from bigmodel_helpers.runtime import seed_everything
from bigmodel_helpers.training import fit

CLASSES = ("a", "b", "c")


class StopError(Exception):
    pass


def images(count=48):
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(count) % len(CLASSES)
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
    pixels[torch.arange(count), labels] += 100  # the class is the brightest channel
    return ImageSet(pixels.to(torch.uint8), labels, CLASSES, "made by this test")


def network(dropout=0.0, norm=True):
    seed_everything(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, len(CLASSES)))


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(a, b, rtol=0.0, atol=0.0):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=rtol, atol=atol)


def timeless(history):
    return [{name: value for name, value in row.items() if "second" not in name} for row in history]


def train(model=None, steps=6, batch_size=16, **options):
    """Train on 48 images, three batches of 16 a pass."""
    model = model or network()
    defaults = {
        "batches": Batches(images(), batch_size, shuffle=True, seed=3),
        "optimizers": sgd(model),
        "progress": False,
    }
    return fit(model, steps=steps, **(defaults | options))


class TokenModel(nn.Module):
    """Logits (B, T, 7) for tokens (B, T): an embedding and a layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(7, 6), nn.Linear(6, 7)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).tanh())


def token_batches(count, seed=0):
    """Uneven batches of tokens, some of whose targets are masked by -100."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for index in range(count):
        tokens = torch.randint(7, (1 + index % 3, 5), generator=generator)
        targets = torch.randint(7, tokens.shape, generator=generator)
        targets[torch.rand(targets.shape, generator=generator) < 0.5] = -100
        targets[0, 0] = 1
        made.append((tokens, targets))
    return made
