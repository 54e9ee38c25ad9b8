"""Every network trained by the compiled program, by PyTorch's own compiler, not only traced."""

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from devices import devices, has_compiler, mixed_dtype

from bigmodel_helpers.models import ByteLM, ConvNet, ResNet, SpeedNet

NETWORKS = {
    "convnet": lambda: ConvNet(size=10, dropout=0.0),  # compiled programs draw random numbers of their own
    "resnet": lambda: ResNet((1, 1), (8, 16)),
    "speednet": lambda: SpeedNet((8, 8, 8)),
    "byte_lm": lambda: ByteLM(width=8, layers=1, heads=2, context=8),
}
SIZES = {"convnet": 10, "resnet": 8, "speednet": 24}  # pixels a side


@pytest.fixture(autouse=True)
def _one_compiler_at_a_time():
    """Start no worker processes, which would each import PyTorch, and leave no compiled code to the next test."""
    with torch._inductor.config.patch(compile_threads=1):
        yield
    torch._dynamo.reset()


def train(network, device, mixed, compiled):
    torch.manual_seed(0)
    model = NETWORKS[network]()
    if network == "byte_lm":
        inputs = torch.randint(256, (4, 8))
        targets = torch.randint(256, (4, 8))
    else:
        inputs = torch.randn(32, 3, SIZES[network], SIZES[network])
        targets = torch.randint(10, (32,))
    if network == "speednet":
        model.set_whitening(inputs)
    model, inputs, targets = model.to(device), inputs.to(device), targets.to(device)
    names = list(model.state_dict())
    if compiled:
        model.compile(fullgraph=True, dynamic=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses = []
    for _ in range(4):
        with torch.autocast(device, mixed_dtype(device), enabled=mixed):
            loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert list(model.state_dict()) == names
    return losses


@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize(("network", "mixed"), [("convnet", False), *((name, True) for name in NETWORKS)])
def test_a_compiled_network_learns_as_the_eager_one(network, mixed, device):
    eager = train(network, device, mixed, compiled=False)
    compiled = train(network, device, mixed, compiled=True)
    assert compiled == pytest.approx(eager, rel=0.02 if mixed else 1e-4 if device == "cpu" else 1e-2)
    assert eager[-1] < eager[0]
