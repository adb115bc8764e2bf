"""Products with the tangent kernel against a Jacobian that torch forms whole, for every architecture."""

from __future__ import annotations

import pytest
import torch
from torch.func import functional_call, jacrev

from calib_bench.core.splits import InputSpec
from calib_bench.dynamics.tangent_kernel import Tangent
from calib_bench.errors import UserError
from tests.dynamics.test_curvature import problem

ARCHITECTURES = [
    ("mlp_7_5", InputSpec("vector", (6,))),
    ("cnn_3_4", InputSpec("image", (1, 8, 8))),
    ("wrn_10_1", InputSpec("image", (1, 4, 4))),
    ("wrn_10_1_nonorm", InputSpec("image", (1, 4, 4))),
    ("gru_3", InputSpec("tokens", vocabulary=5)),
    ("lstm_3", InputSpec("tokens", vocabulary=5)),
    ("bag_3", InputSpec("tokens", vocabulary=5)),
    ("timm/test_vit", InputSpec("image", (3, 32, 32))),
]


def jacobian(model, x):
    """J [M K, P], one backward pass a logit, without torch.func."""
    model.train()
    state = {name: b.clone() for name, b in model.named_buffers()}
    parameters = list(model.parameters())
    z = functional_call(model, state, (x,))
    rows = [
        torch.cat(
            [
                g.flatten()
                for g in torch.autograd.grad(
                    value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
                )
            ]
        )
        for value in z.flatten()
    ]
    return z.detach(), torch.stack(rows)


@pytest.mark.parametrize(("name", "spec"), ARCHITECTURES)
def test_products_match_a_dense_jacobian(name, spec):
    model, x, _ = problem(name, spec, n=6)
    model.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    tangent = Tangent(model, x)
    z, J = jacobian(model, x)
    v = torch.randn_like(z)
    d = {key: torch.randn_like(p) for key, p in model.named_parameters()}
    torch.testing.assert_close(tangent.z, z)
    pulled = torch.cat([tangent.pull(v)[key].flatten() for key in d])
    torch.testing.assert_close(pulled, J.T @ v.flatten(), rtol=1e-9, atol=1e-10)
    along = torch.cat([piece.flatten() for piece in d.values()])
    torch.testing.assert_close(tangent.push(d).flatten(), J @ along, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(tangent.kernel(v).flatten(), J @ (J.T @ v.flatten()), rtol=1e-9, atol=1e-8)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("chunk", [1, 4, 6, 50])
@pytest.mark.parametrize(("name", "spec"), [ARCHITECTURES[0], ARCHITECTURES[4]])
def test_chunks_change_nothing(name, spec, chunk):
    model, x, _ = problem(name, spec, n=6)
    whole, parts = Tangent(model, x), Tangent(model, x, chunk)
    v = torch.randn_like(whole.z)
    torch.testing.assert_close(parts.z, whole.z)
    torch.testing.assert_close(parts.kernel(v), whole.kernel(v), rtol=1e-10, atol=1e-12)


def test_a_dense_kernel_when_it_is_asked_for():
    model, x, _ = problem("mlp_7_5", n=5)
    dense = Tangent(model, x, chunk=2).dense()
    names = dict(model.named_parameters())
    by_name = jacrev(lambda at: functional_call(model, at, (x,)))({k: p.detach() for k, p in names.items()})
    J = torch.cat([by_name[k].reshape(20, -1) for k in names], 1)
    torch.testing.assert_close(dense, J @ J.T, rtol=1e-9, atol=1e-10)
    assert torch.linalg.eigvalsh(dense)[0] > -1e-9


def test_it_stays_where_it_was_made():
    model, x, _ = problem("mlp_7_5")
    tangent = Tangent(model, x)
    v = torch.ones_like(tangent.z)
    before = tangent.kernel(v)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
    assert torch.equal(tangent.kernel(v), before)


def test_batch_norm_takes_the_whole_batch():
    model, x, _ = problem("wrn_10_1", InputSpec("image", (1, 4, 4)), n=6)
    with pytest.raises(UserError, match="batch norm"):
        Tangent(model, x, chunk=3)
