import pytest
import torch
from torch import nn

from bigmodel_helpers.training import optim


def test_orthogonalize_keeps_the_singular_vectors_and_evens_the_values():
    torch.manual_seed(0)
    for shape in ((16, 40), (40, 16), (16, 16)):
        matrix = torch.randn(shape)
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        result = optim.orthogonalize(matrix, iterations=5)
        inner = u.T @ result @ vt.T
        assert result.shape == matrix.shape
        assert ((inner.diag() > 0.5) & (inner.diag() < 1.4)).all()
        assert (inner - torch.diag(inner.diag())).abs().max() < 0.1


def test_muon_agrees_with_torch_on_a_matrix():
    torch.manual_seed(0)
    start, gradients = torch.randn(8, 20), [torch.randn(8, 20) for _ in range(4)]
    start *= 8**0.5 / start.norm()
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = optim.Muon([ours], lr=1e-3, momentum=0.6)
    reference = torch.optim.Muon([theirs], lr=1e-3, momentum=0.6, weight_decay=0.0, ns_steps=3, eps=1e-7)
    for gradient in gradients:
        before = ours.detach() * (8**0.5 / ours.detach().norm())
        theirs.data.copy_(before)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        reference.step()
        torch.testing.assert_close(ours - before, theirs - before, rtol=0.02, atol=2e-5)


def test_a_group_that_is_not_orthogonalized_is_nesterov_sgd():
    torch.manual_seed(0)
    start = torch.randn(5)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon = optim.Muon([{"params": [ours], "orthogonalize": False}], lr=0.1, momentum=0.8)
    reference = torch.optim.SGD([theirs], lr=0.1, momentum=0.8, nesterov=True)
    for _ in range(5):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        muon.step()
        reference.step()
    torch.testing.assert_close(ours, theirs)


def test_weight_decay_shrinks_by_the_learning_rate():
    weight = nn.Parameter(torch.ones(3))
    muon = optim.Muon([{"params": [weight], "orthogonalize": False}], lr=0.1, weight_decay=0.5)
    weight.grad = torch.zeros(3)
    muon.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 0.95))


def test_convolutions_keep_the_norm_that_batch_norm_ignores():
    kernel = nn.Parameter(torch.randn(6, 3, 3, 3))
    muon = optim.Muon([kernel], lr=1e-9)
    kernel.grad = torch.randn_like(kernel)
    muon.step()
    assert kernel.norm().item() == pytest.approx(6**0.5, rel=1e-5)


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"momentum": 1.0}])
def test_senseless_settings_are_refused(options):
    with pytest.raises(ValueError, match="Muon needs"):
        optim.Muon([nn.Parameter(torch.ones(2, 2))], **options)


def test_schedules_have_their_corners():
    assert optim.constant(0.3) == 1
    shape = optim.triangle(warmup=0.2, start=0.5, end=0.1)
    assert [shape(x) for x in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0.5, 0.75, 1, 0.55, 0.1])
    shape = optim.cosine(warmup=0.5, end=0.2)
    assert [shape(x) for x in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 1, 0.6, 0.2])
